"""Images that every client can unpack, pushed straight over HTTP."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import tarfile
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Final, Literal

from attrs import frozen

from tests.real.origin import Origin

Media = Literal["oci", "docker"]
Algorithm = Literal["sha256", "sha512"]

#: Media types of manifest, index, configuration and layer.
MEDIA_TYPES: Final[Mapping[Media, tuple[str, str, str, str]]] = {
    "oci": (
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.oci.image.layer.v1.tar+gzip",
    ),
    "docker": (
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.container.image.v1+json",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
    ),
}


@frozen
class Descriptor:
    """What a manifest says of a content (image-spec 1.1, descriptor.md). ``size`` is in bytes."""

    media_type: str
    digest: str
    size: int

    def written(self) -> dict[str, object]:
        """As it stands in a manifest."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


@frozen
class Image:
    """A pushed image."""

    name: str
    tag: str
    manifest: Descriptor
    config: Descriptor
    layers: tuple[Descriptor, ...]

    @property
    def digest(self) -> str:
        """Its manifest's digest."""
        return self.manifest.digest

    def blobs(self) -> tuple[Descriptor, ...]:
        """Configuration and layers."""
        return (self.config, *self.layers)

    def reference(self, host: str) -> str:
        """What a client pulls: ``host/name:tag``."""
        return f"{host}/{self.name}:{self.tag}"


@frozen
class Index:
    """A pushed image index, and its image for each architecture."""

    name: str
    tag: str
    manifest: Descriptor
    images: Mapping[str, Image]

    @property
    def digest(self) -> str:
        """The index's digest."""
        return self.manifest.digest

    def reference(self, host: str) -> str:
        """What a client pulls: ``host/name:tag``."""
        return f"{host}/{self.name}:{self.tag}"


def digest_of(content: bytes, algorithm: Algorithm = "sha256") -> str:
    """The digest of ``content``, as text."""
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


def random_bytes(size: int, seed: int | str) -> bytes:
    """``size`` bytes that no compression helps against, the same for the same seed."""
    return random.Random(seed).randbytes(size)


def layer(size: int, seed: int | str) -> tuple[bytes, str]:
    """A layer with one file of ``size`` random bytes, and the digest of what it unpacks to."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo(f"file-{hashlib.sha256(str(seed).encode()).hexdigest()[:8]}")
        member.size = size
        member.mode = 0o644
        archive.addfile(member, io.BytesIO(random_bytes(size, seed)))
    content = packed.getvalue()
    return gzip.compress(content, compresslevel=0, mtime=0), digest_of(content)


def push_blob(origin: Origin, name: str, content: bytes, algorithm: Algorithm = "sha256") -> str:
    """
    Push one blob (a POST and one PUT); its digest.

    docker-registry takes and serves sha512 too, under its sha256 file; only its
    ``Docker-Content-Digest`` says sha256 whatever was asked for.
    """
    digest = digest_of(content, algorithm)
    begun = origin.request("POST", f"/v2/{name}/blobs/uploads/", b"")
    assert begun.status == 202, begun
    split = urllib.parse.urlsplit(begun.headers["location"])
    query = "&".join(filter(None, (split.query, urllib.parse.urlencode({"digest": digest}))))
    ended = origin.request(
        "PUT", f"{split.path}?{query}", content, {"Content-Type": "application/octet-stream"}
    )
    assert ended.status == 201, ended
    return digest


def push_manifest(
    origin: Origin, name: str, reference: str, manifest: Mapping[str, object], media_type: str
) -> Descriptor:
    """Push a manifest or an index under a tag, or under its digest where ``reference`` is empty."""
    content = json.dumps(manifest, indent=2).encode()
    digest = digest_of(content)
    answer = origin.request(
        "PUT", f"/v2/{name}/manifests/{reference or digest}", content, {"Content-Type": media_type}
    )
    assert answer.status == 201, answer
    return Descriptor(media_type, digest, len(content))


def push_image(
    origin: Origin,
    name: str,
    tag: str = "latest",
    *,
    layers: Sequence[int] = (20_000, 3_000),
    media: Media = "oci",
    algorithm: Algorithm = "sha256",
    config_algorithm: Algorithm | None = None,
    seed: int | str = 0,
    architecture: str = "amd64",
) -> Image:
    """
    Push an image of layers with ``layers`` bytes of files; ``algorithm`` is that of the digests
    of its layers, and of its configuration unless told otherwise. An empty ``tag`` pushes by
    digest only.
    """
    manifest_type, _, config_type, layer_type = MEDIA_TYPES[media]
    descriptors: list[Descriptor] = []
    unpacked: list[str] = []
    for number, size in enumerate(layers):
        content, diff_id = layer(size, f"{seed}/{architecture}/{number}")
        digest = push_blob(origin, name, content, algorithm)
        descriptors.append(Descriptor(layer_type, digest, len(content)))
        unpacked.append(diff_id)
    configuration = json.dumps(
        {
            "architecture": architecture,
            "os": "linux",
            "created": "2020-01-01T00:00:00Z",
            "config": {"Cmd": ["/none"], "Labels": {"seed": str(seed)}},
            "rootfs": {"type": "layers", "diff_ids": unpacked},
            "history": [{"created": "2020-01-01T00:00:00Z", "created_by": "tests"} for _ in unpacked],
        }
    ).encode()
    config_digest = push_blob(origin, name, configuration, config_algorithm or algorithm)
    config = Descriptor(config_type, config_digest, len(configuration))
    written = {
        "schemaVersion": 2,
        "mediaType": manifest_type,
        "config": config.written(),
        "layers": [descriptor.written() for descriptor in descriptors],
    }
    manifest = push_manifest(origin, name, tag, written, manifest_type)
    return Image(name, tag or manifest.digest, manifest, config, tuple(descriptors))


def push_index(
    origin: Origin,
    name: str,
    tag: str = "latest",
    *,
    architectures: Sequence[str] = ("amd64", "arm64"),
    layers: Sequence[int] = (20_000,),
    media: Media = "oci",
    algorithm: Algorithm = "sha256",
    seed: int | str = 0,
) -> Index:
    """Push an image for each architecture, and the index that lists them."""
    images = {
        architecture: push_image(
            origin,
            name,
            "",
            layers=layers,
            media=media,
            algorithm=algorithm,
            seed=seed,
            architecture=architecture,
        )
        for architecture in architectures
    }
    index_type = MEDIA_TYPES[media][1]
    listed = [
        {**image.manifest.written(), "platform": {"architecture": architecture, "os": "linux"}}
        for architecture, image in images.items()
    ]
    written = {"schemaVersion": 2, "mediaType": index_type, "manifests": listed}
    return Index(name, tag, push_manifest(origin, name, tag, written, index_type), images)
