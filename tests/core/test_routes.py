"""What a path means, and that nothing means two things."""

from __future__ import annotations

from urllib.parse import parse_qs, unquote

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.digest import Digest
from contentcache.core.errors import (
    CacheError,
    DigestInvalid,
    MethodUnsupported,
    NameInvalid,
    RequestMalformed,
    RouteUnknown,
    TagUnknown,
)
from contentcache.core.routes import (
    NAME_LENGTH,
    Catalog,
    Content,
    Paging,
    Ping,
    Referrers,
    Root,
    Route,
    TaggedManifest,
    TagsList,
    one,
    parse,
    repository,
    split_target,
)

SHA256 = "sha256:" + "0123456789abcdef" * 4
SHA512 = "sha512:" + "0123456789abcdef" * 8

_LETTERS = list("aZ0._-/:%@~ é\n\x00\u0661\udc80")
_WORDS = (
    "/v2/ v2 app .. . // %2F %2f %2e %3A %3a /blobs/ /manifests/ /tags/list /referrers/ /uploads _catalog"
)
_DIGESTS = [SHA256, SHA512, SHA256.upper(), SHA256.replace(":", "%3A"), "a" * 200]
_PIECES = st.sampled_from([*_LETTERS, *_WORDS.split(), *_DIGESTS])
_PATHS = st.lists(_PIECES, max_size=9).map("".join)


def rebuilt(route: Route) -> str:
    """The path that leaves for upstream."""
    match route:
        case Root():
            return "/"
        case Ping():
            return "/v2/"
        case Catalog():
            return "/v2/_catalog"
        case TagsList(name):
            return f"/v2/{name}/tags/list"
        case Content():
            return route.path()
        case TaggedManifest(name, tag):
            return f"/v2/{name}/manifests/{tag}"
        case Referrers(name, digest):
            return f"/v2/{name}/referrers/{digest}"


class ParseTests(SynchronousTestCase):
    """The grammar of paths."""

    def test_table(self) -> None:
        """Each path of the API, at the edges of what is allowed."""
        digest, longer = Digest.parse(SHA256), Digest.parse(SHA512)
        name = "a" * NAME_LENGTH
        for path, route in [
            ("/", Root()),
            ("/v2/", Ping()),
            ("/v2", Ping()),
            ("/v2/_catalog", Catalog()),
            ("/v2/a/tags/list", TagsList("a")),
            ("/v2/tags/list/tags/list", TagsList("tags/list")),
            ("/v2/manifests/manifests/manifests", TaggedManifest("manifests", "manifests")),
            ("/v2/a/b/c/d/manifests/_1.0-x", TaggedManifest("a/b/c/d", "_1.0-x")),
            ("/v2/a/manifests/" + "T" * 128, TaggedManifest("a", "T" * 128)),
            (f"/v2/a__b/c--d/e.f/manifests/{SHA512}", Content("a__b/c--d/e.f", "manifests", longer)),
            (f"/v2/{name}/blobs/{SHA256}", Content(name, "blobs", digest)),
            (f"/v2/a/blobs/{SHA256.replace(':', '%3A')}", Content("a", "blobs", digest)),
            (f"/v2/a/manifests/{SHA256.replace(':', '%3a')}", Content("a", "manifests", digest)),
            (f"/v2/a/referrers/{SHA256}", Referrers("a", digest)),
            (f"/v2/a%2fb%2Fc/blobs/{SHA256.replace(':', '%3A')}", Content("a/b/c", "blobs", digest)),
            ("/v2/a%2Fb/tags/list", TagsList("a/b")),
            ("/v2/a%2Fb/manifests/%31%2e0".replace("%2e", "."), TaggedManifest("a/b", "1.0")),
            ("/v2/a/blobs/uploads/b/manifests/1", TaggedManifest("a/blobs/uploads/b", "1")),
        ]:
            with self.subTest(path=path):
                self.assertEqual(parse(path), route)

    def test_refused(self) -> None:
        """Each way to be wrong has its own code and status."""
        for path, error, status in [
            ("/v2/a%2F..%2Fb/manifests/1", NameInvalid, 400),
            ("/v2/a%2f%2Fb/tags/list", NameInvalid, 400),
            ("/v2/a%2F/tags/list", NameInvalid, 400),
            ("/v2/a%2F.%2Fb/tags/list", NameInvalid, 400),
            ("/v2/a%252Fb/tags/list", NameInvalid, 400),
            ("/v2/%61/tags/list", NameInvalid, 400),
            ("/v2/a%3Ab/tags/list", NameInvalid, 400),
            ("/v2/a%2Ftags%2Flist", NameInvalid, 400),
            ("/v2/a/manifests%2F1", NameInvalid, 400),
            ("/v2/a/../b/manifests/1", NameInvalid, 400),
            ("/v2/./a/manifests/1", NameInvalid, 400),
            ("/v2/%2e%2e/a/manifests/1", NameInvalid, 400),
            ("/v2/../_catalog", NameInvalid, 400),
            ("/v2/..", NameInvalid, 400),
            ("/v2/a%2Fb", NameInvalid, 400),
            ("/v2//", NameInvalid, 400),
            ("//v2/", NameInvalid, 400),
            ("/%76%32/", NameInvalid, 400),
            ("/x/../v2/", NameInvalid, 400),
            ("/v2//a/manifests/1", NameInvalid, 400),
            ("/v2/a//b/manifests/1", NameInvalid, 400),
            ("/v2/a//manifests/1", NameInvalid, 400),
            ("/v2//tags/list", NameInvalid, 400),
            ("/v2/" + "a" * (NAME_LENGTH + 1) + "/tags/list", NameInvalid, 400),
            ("/v2/A/manifests/1", NameInvalid, 400),
            ("/v2/a_/manifests/1", NameInvalid, 400),
            ("/v2/a___b/manifests/1", NameInvalid, 400),
            ("/v2/a..b/manifests/1", NameInvalid, 400),
            ("/v2/-a/manifests/1", NameInvalid, 400),
            ("/v2/a\n/manifests/1", NameInvalid, 400),
            ("/v2/\u0661/manifests/1", NameInvalid, 400),
            ("/v2/a/manifests/", NameInvalid, 400),
            ("/v2/a/manifests/..", NameInvalid, 400),
            ("/v2/a/manifests/%2e%2e", NameInvalid, 400),
            ("/v2/a/manifests/a%2Fb", NameInvalid, 400),
            ("/v2/a/manifests/a%2531", NameInvalid, 400),
            ("/v2/a/manifests/.a", TagUnknown, 404),
            ("/v2/a/manifests/a\n", TagUnknown, 404),
            ("/v2/a/manifests/" + "t" * 129, TagUnknown, 404),
            ("/v2/_oci/ext/discover", RouteUnknown, 404),
            ("/v2/_zot/ext/search", RouteUnknown, 404),
            ("/v2/a/b/_oci/ext/discover", RouteUnknown, 404),
            ("/v2/_oci/a/tags/list", RouteUnknown, 404),
            ("/v2/_oci/../a/tags/list", NameInvalid, 400),
            ("/v2/_oci%2F..%2Fa/tags/list", NameInvalid, 400),
            ("/v2/a/manifests/" + SHA256.upper().replace("SHA", "sha"), DigestInvalid, 400),
            ("/v2/a/manifests/a:b", TagUnknown, 404),
            ("/v2/a/manifests/a%3Ab", TagUnknown, 404),
            ("/v2/a/manifests/:", TagUnknown, 404),
            ("/v2/a/manifests/sha256:a:b", DigestInvalid, 400),
            ("/v2/a/manifests/sha512:", DigestInvalid, 400),
            ("/v2/a/manifests/md5:" + "0" * 32, TagUnknown, 404),
            ("/v2/a/manifests/sha256-1:" + "0" * 64, TagUnknown, 404),
            ("/v2/a/blobs/a:b", DigestInvalid, 400),
            ("/v2/a/referrers/a:b", DigestInvalid, 400),
            ("/v2/a/blobs/" + SHA256[:-1], DigestInvalid, 400),
            ("/v2/a/blobs/" + SHA256[:-1] + "F", DigestInvalid, 400),
            ("/v2/a/blobs/" + SHA256.replace(":", "%253A"), DigestInvalid, 400),
            ("/v2/a/blobs/md5:" + "0" * 32, DigestInvalid, 400),
            ("/v2/a/blobs/", DigestInvalid, 400),
            ("/v2/a/referrers/latest", DigestInvalid, 400),
            ("/v2/a/blobs/uploads/", MethodUnsupported, 405),
            ("/v2/a/blobs/uploads", MethodUnsupported, 405),
            ("/v2/a/b/blobs/uploads/0a1b", MethodUnsupported, 405),
            ("", RouteUnknown, 404),
            ("/v1/", RouteUnknown, 404),
            ("/v2x", RouteUnknown, 404),
            ("/v2/a", RouteUnknown, 404),
            ("/v2/a/b/c", RouteUnknown, 404),
            ("/v2/a/tags/list/", RouteUnknown, 404),
            ("/v2/_catalog/", RouteUnknown, 404),
        ]:
            with self.subTest(path=path):
                self.assertEqual(self.assertRaises(error, parse, path).status, status)

    @settings(deadline=None)
    @given(_PATHS | st.text(max_size=60) | _PATHS.map("/v2/a".__add__))
    def test_one_meaning(self, path: str) -> None:
        """
        A path is refused as the client's fault or means exactly itself: what leaves for upstream is what
        came, but for escaped slashes of a name, an escaped colon and escaped letters of a tag.
        """
        try:
            route = parse(path)
        except CacheError as error:
            self.assertIn(error.status, (400, 404, 405))
            self.assertLess(len(error.message), 1200)
            return
        if path != "/v2":
            self.assertEqual(rebuilt(route), unquote(path))
        name = getattr(route, "repository", "a")
        self.assertEqual(repository(name), name)
        self.assertLessEqual(len(name), NAME_LENGTH)

    @settings(deadline=None)
    @given(st.from_regex(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*", fullmatch=True))
    def test_every_name_of_the_grammar(self, component: str) -> None:
        """Whatever the spec's grammar makes is a name, if it is short enough."""
        name = f"{component[:100].strip('._-')}/{component[:100].strip('._-')}"
        self.assertEqual(parse(f"/v2/{name}/tags/list"), TagsList(name))

    def test_no_backtracking(self) -> None:
        """Hostile names end at once: a pattern that tries all ways to read them would not end at all."""
        for unit in ("a-", "a_", "a.", "a/", "a__", "a--", "-", "a", "a%", "/", "/.", "%", "aA"):
            longest = unit * (NAME_LENGTH // len(unit))
            for path in (f"/v2/{longest[:-1]}!/tags/list", f"/v2/{unit * 1000}!/tags/list", unit * 8000):
                with self.subTest(path=path[:20]):
                    self.assertRaises(CacheError, parse, path)


class TargetTests(SynchronousTestCase):
    """The target of a request (RFC 9112 §3.2)."""

    def test_table(self) -> None:
        """Path, query and authority are taken apart, and nothing is decoded."""
        for target, expected in [
            ("/v2/?ns=a%2Fb?c", ("/v2/", "ns=a%2Fb?c", None)),
            ("HTTPS://Host:1/v2/a?b", ("/v2/a", "b", "Host:1")),
            ("http://host", ("/", "", "host")),
            ("http://host?n=1", ("/", "n=1", "host")),
            ("http://user@host/v2/", ("http://user@host/v2/", "", None)),
            ("//host/v2/", ("//host/v2/", "", None)),
            ("*", ("*", "", None)),
            ("", ("", "", None)),
        ]:
            with self.subTest(target=target):
                self.assertEqual(split_target(target), expected)


class PagingTests(SynchronousTestCase):
    """What of a query goes on."""

    def test_only_three(self) -> None:
        """Of everything in a query three parameters pass, escaped anew."""
        query = parse_qs("n=10&last=a%26token%3Dx&artifactType=a/b%2Bc&ns=evil&token=t&digest=d")
        self.assertEqual(Paging.of(query).query(), "?n=10&last=a%26token%3Dx&artifactType=a%2Fb%2Bc")
        self.assertEqual(Paging.of({"ns": ["x"]}).query(), "")

    def test_refused(self) -> None:
        """What cannot be meant is the client's fault."""
        for query in [
            {"n": ["-1"]},
            {"n": [""]},
            {"n": ["1e3"]},
            {"n": ["\u0661"]},
            {"n": ["9" * 20]},
            {"n": ["1", "2"]},
            {"last": ["a\r\nb"]},
            {"last": ["\udc80"]},
            {"last": ["a" * 2049]},
            {"artifactType": ["\x00"]},
        ]:
            with self.subTest(query=query):
                self.assertRaises(RequestMalformed, Paging.of, query)

    @settings(deadline=None)
    @given(
        st.dictionaries(st.sampled_from(["n", "last", "artifactType", "x"]), st.lists(st.text(), max_size=2))
    )
    def test_means_the_same_again(self, query: dict[str, list[str]]) -> None:
        """What is sent on is read by the next one as what it was."""
        try:
            paging = Paging.of(query)
        except RequestMalformed:
            return
        again = parse_qs(paging.query()[1:], keep_blank_values=True)
        self.assertEqual(Paging.of(again), paging)
        self.assertEqual(one(again, "last"), paging.last)
