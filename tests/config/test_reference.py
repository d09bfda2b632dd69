"""Tests for :mod:`contentcache.config.reference`, and for the descriptions that it is made of."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import yaml
from jsonschema_rs import Draft202012Validator, meta

from contentcache.config.model import Downstream, Gateway, Limits, Upstream
from contentcache.config.reading import reader_of
from contentcache.config.reference import TABLES, rows, schema, with_tables
from contentcache.config.schema.kinds import PAIRED_FILE
from contentcache.config.schema.options import described, keys_of
from contentcache.config.show import render
from tests.config.samples import CHAIN
from tests.config.test_show import FULL, OPTIONS
from tests.config.writing import MINIMAL, ConfigurationTestCase, with_options, with_upstream
from tests.tls.certificates import make

_ROOT = Path(__file__).parents[2]
#: Kinds that code reads together with others.
_TOGETHER = {"mapping", "list", "networks", "fields", "headers", PAIRED_FILE.name}


class DescriptionTests(ConfigurationTestCase):
    """The descriptions of keys."""

    def test_readers(self) -> None:
        """Every described key is of a kind that can be read."""
        models = {model for table in TABLES.values() for _section, model in table}
        for model in models:
            for each in described(model):
                if each.option.kind.name not in _TOGETHER:
                    self.assertTrue(callable(reader_of(each.option.kind)), each)

    def test_every_field_is_described(self) -> None:
        """No option of a middleware, no key of an upstream and no limit lacks a description."""
        derived = {"own", "issuer", "signing"}
        for model in (Downstream, Upstream, Limits, Gateway):
            fields = {each.field for each in described(model)}
            self.assertEqual({field.name for field in attrs.fields(model)} - fields - derived, set())

    def test_meanings(self) -> None:
        """Every key has a meaning, without a full stop at its end, as the cells of a table have none."""
        for name in TABLES:
            for key, kind, _default, meaning in rows(name):
                self.assertTrue(key and kind and meaning and not meaning.endswith("."), (name, key))


class DocumentTests(ConfigurationTestCase):
    """What is written into the repository."""

    def test_tables(self) -> None:
        """The tables of the reference are those that the descriptions make."""
        document = (_ROOT / "docs" / "configuration.rst").read_text("utf-8")
        self.assertEqual(with_tables(document), document)

    def test_no_place(self) -> None:
        """A document that lacks the place of a table is refused, and the table is named."""
        with self.assertRaisesRegex(ValueError, "table of top"):
            with_tables("nothing\n")

    def test_schema_file(self) -> None:
        """The schema beside the sample file is the one that the descriptions make."""
        self.assertEqual(json.loads((_ROOT / "etc" / "config.schema.json").read_text("utf-8")), schema())


class SchemaTests(ConfigurationTestCase):
    """The JSON Schema."""

    def schema_faults(self, text: str) -> list[str]:
        """Where the schema finds a fault in a file."""
        document = yaml.safe_load(text)
        return [str(error.instance_path) for error in Draft202012Validator(schema()).iter_errors(document)]

    def test_valid(self) -> None:
        """It is a schema itself."""
        self.assertTrue(meta.is_valid(schema()))

    def test_good_files(self) -> None:
        """Files that the daemon takes are valid, and so is what ``check --show`` writes of them."""
        made = make("cache")
        chain = CHAIN.format(cert=self.write(made.pem), key=self.write(made.key_pem()))
        for text in (MINIMAL, chain, with_options(OPTIONS), with_upstream(FULL)):
            self.assertEqual(self.schema_faults(text), [], text)
            self.assertEqual(self.schema_faults(render(self.load(text).configuration)), [], text)
        self.assertEqual(self.schema_faults((_ROOT / "etc" / "config.yml").read_text("utf-8")), [])

    def test_misspelt_keys(self) -> None:
        """A key that nobody described is a fault."""
        for text in (with_options("upstreams: ['https://a.example']\nblobtll: 24h"), f"{MINIMAL}\nworker: 2"):
            self.assertNotEqual(self.schema_faults(text), [])

    def test_wrong_types(self) -> None:
        """A value of another type is a fault."""
        self.assertNotEqual(
            self.schema_faults(with_options("upstreams: ['https://a.example']\nkeepdeleted: 5")), []
        )

    def test_limits_have_places(self) -> None:
        """Every key of the limits is in the schema."""
        given = ", ".join(f"{key}: 1" for key in keys_of(Limits))
        text = with_options(f"upstreams: ['https://a.example']\nlimits: {{{given}}}")
        self.assertEqual(self.schema_faults(text), [])
