"""Tests for :mod:`contentcache.app.gauges`."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from contentcache.admin.status import CertificateStatus
from contentcache.app.gauges import lag_probe, watch_daemon
from contentcache.telemetry.metrics import Meter


class DaemonGaugesTests(SynchronousTestCase):
    """What there is once in a daemon."""

    def test_certificates(self) -> None:
        """The expiry of each host's certificate, as it is when somebody looks: files are read again."""
        meter = Meter()
        certificates = [CertificateStatus("one.example", 100.0, "ok", "valid")]
        watch_daemon(meter, 5.0, lambda: certificates)
        name = "contentcache_certificate_expiry_timestamp_seconds"
        self.assertEqual(meter.registry.get_sample_value(name, {"host": "one.example"}), 100.0)
        certificates[0] = CertificateStatus("two.example", 200.0, "ok", "valid")
        self.assertEqual(meter.registry.get_sample_value(name, {"host": "two.example"}), 200.0)
        loaded = "contentcache_config_last_reload_success_timestamp_seconds"
        self.assertEqual(meter.registry.get_sample_value(loaded), 5.0)

    def test_lag(self) -> None:
        """How late a call comes is observed, and does not add up."""
        meter, clock = Meter(), Clock()
        look = lag_probe(meter, clock, 0.5)
        for seconds in (0.5, 0.7, 0.5):
            clock.advance(seconds)
            look()
        read = meter.registry.get_sample_value
        self.assertEqual(read("contentcache_reactor_lag_seconds_count"), 3)
        self.assertAlmostEqual(read("contentcache_reactor_lag_seconds_sum") or 0.0, 0.2)
