"""Files in the forms that operators have; ``{cert}`` and ``{key}`` stand for paths."""

#: A line of ``htpasswd -B``, which nobody knows the password of.
USER = "ann:$2y$05$" + "abcdefghijklmnopqrstu." + "0123456789ABCDEFGHIJKLMNOPQRSTU"

#: A cache before an origin, and one behind it, in the form of the first version.
CHAIN = """\
version: 0.1
storage:
  delete:
    enabled: true
  filesystem:
    rootdirectory: /var/lib/registry
http:
  addr: :5000
  tls:
    certificate: {cert}
    key: {key}
middleware:
  registry:
    - name: downstream
      options:
        blobttl: 24h
        upstreams:
          - originhost: https://registry.example.com
            upstreamhosts:
              - https://san-francisco.example.com
        cas:
          - {cert}
"""

#: The form of later versions: a plain list, more of the registry's own keys, a secret's mount.
LATER = """\
version: 0.1
log:
  level: info
storage:
  delete:
    enabled: true
  filesystem:
    rootdirectory: /var/lib/registry
http:
  addr: 0.0.0.0:443
  secret: generate-random-secret
  host: https://cache.example.com
  tls:
    certificate: {cert}
    key: {key}
middleware:
  registry:
    - name: downstream
      options:
        blobttl: 24h
        upstreams:
          - https://registry.example.com:443
          - https://other.example.com
        cas:
          - {cert}
"""
