from twisted.application.service import ServiceMaker

contentcache = ServiceMaker(
    "Content Cache",
    "contentcache.app.tap",
    "A pull-through cache for container images.",
    "contentcache",
)
