"""Values that packages below are given, made of the configuration as it is now: a reload makes them anew."""

from __future__ import annotations

from contentcache.config.model import Configuration
from contentcache.core.eviction import Retention
from contentcache.delivery.options import DeliveryOptions


def retention_of(configuration: Configuration) -> Retention:
    """What is evicted when."""
    options = configuration.downstream
    in_memory = configuration.storage.driver == "inmemory"
    return Retention(
        blobttl=options.blobttl,
        maxsize=options.maxsize,
        minfree=0 if in_memory else options.minfree,
        purge_after=max(options.affirmttl, options.staleiferror),
        sweepinterval=options.sweepinterval,
    )


def delivery_options_of(configuration: Configuration) -> DeliveryOptions:
    """How contents are delivered."""
    options = configuration.downstream
    return DeliveryOptions(
        manifest_limit=options.limits.manifest,
        maxsize=options.maxsize,
        fill_after=options.fillafter,
        retry_for=options.retryfor,
        auth_ttl=options.authttl,
        affirm_ttl=options.affirmttl,
        keep_deleted=options.keepdeleted,
        stale_if_error=options.staleiferror,
    )
