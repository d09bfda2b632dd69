"""Certificates by themselves on a disk without a free byte: what is in use stays in use."""

from __future__ import annotations

from tests.real.pebble import Pebble
from tests.real.programs import needs, place, run
from tests.real.test_acme import AcmeCache, AcmeCase


@needs("pebble", "pebble-challtestsrv", "mount", "umount", root=True)
class FullDiskTests(AcmeCase):
    """The folder of the certificates on a filesystem of 64 MB, which somebody else fills to the last byte."""

    def setUp(self) -> None:
        """Mount it."""
        super().setUp()
        self.disk = place(self)
        run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", self.disk])
        self.addCleanup(lambda: run(["umount", "--lazy", self.disk]))
        self.folder = self.disk / "acme"
        self.ballast = self.disk / "ballast"

    def fill(self) -> None:
        """Leave no free byte."""
        try:
            with self.ballast.open("wb", buffering=0) as file:
                size = 1 << 20
                while size:
                    try:
                        while file.write(bytes(size)) == size:
                            pass
                    except OSError:
                        pass
                    size //= 16
        except OSError:
            pass

    def says(self, cache: AcmeCache) -> list[str]:
        """The lines of the log that are about the disk; none is a traceback."""
        self.assertNotIn("Traceback", cache.log())
        return [line for line in cache.log().splitlines() if "No space left" in line]

    def orders(self, pebble: Pebble) -> int:
        """How many orders have been made."""
        return pebble.asked("new-order")

    def test_renewal(self) -> None:
        """
        Where nothing can be written nothing is ordered, and the certificate in use is shown, after a restart
        too; the log says once for each attempt what to do. Once there is room it is renewed.
        """
        pebble = self.pebble()
        cache = self.cache(pebble)
        leaf = self.issued(cache)
        self.kept(cache)
        self.fill()
        orders = self.orders(pebble)
        self.assertEqual(self.renew(), [False])
        self.assertEqual(self.shown(), leaf)
        self.assertEqual(len(self.says(cache)), 1, cache.log())
        cache.wait_for_log("make room on the disk of letsencrypt.cachefile")
        cache.reload()
        cache.stop()
        cache.start()
        self.assertEqual(self.shown(), leaf)
        self.assertEqual(self.renew(), [False])
        self.assertEqual(self.shown(), leaf)
        self.says(cache)
        self.assertEqual(self.orders(pebble), orders)
        self.ballast.unlink()
        self.assertEqual(self.renew(), [True])
        self.assertNotEqual(self.shown(), leaf)
        self.says(cache)

    def test_first(self) -> None:
        """
        A daemon that starts on a full disk serves with the certificate that it has signed itself, and gets a
        proper one once there is room.
        """
        self.fill()
        pebble = self.pebble()
        cache = self.cache(pebble)
        cache.process.wait_until(lambda: self.says(cache), "says why there is none")
        self.assertEqual(self.shown().issuer, self.shown().subject)
        self.assertEqual(self.orders(pebble), 0)
        self.ballast.unlink()
        self.issued(cache)
        self.kept(cache)
        self.says(cache)
