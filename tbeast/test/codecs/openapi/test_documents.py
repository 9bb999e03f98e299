"""The documents hold together: every reference leads somewhere, every path says its parameters, every code is known."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

from openapi_spec_validator import validate
from openapi_spec_validator.validation.exceptions import OpenAPIValidationError
from twisted.trial.unittest import SynchronousTestCase

from tbeast.codecs.openapi.page import POLICY, page
from tbeast.codecs.openapi.parts import ALWAYS, Json, refusals
from tbeast.codecs.openapi.prices import prices
from tbeast.codecs.openapi.reports import report_paths, report_schemas
from tbeast.codecs.problems import CODES
from tbeast.domain.reports import REPORTS

VERSION = "1.2.3"


def within(value: Any) -> Iterator[Any]:
    yield value
    if isinstance(value, dict):
        for one in value.values():
            yield from within(one)
    elif isinstance(value, list):
        for one in value:
            yield from within(one)


def operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


class DocumentTests(SynchronousTestCase):
    document = prices(VERSION)

    def test_is_valid(self) -> None:
        validate(self.document)
        self.assertEqual(VERSION, self.document["info"]["version"])

    def test_a_validator_sees_a_mistake(self) -> None:
        broken = prices(VERSION)
        del broken["paths"]["/price"]["get"]["responses"]["200"]["description"]
        self.assertRaises(OpenAPIValidationError, validate, broken)

    def test_operations_have_names_of_their_own(self) -> None:
        names = [operation["operationId"] for _, _, operation in operations(self.document)]
        self.assertEqual(len(names), len(set(names)))
        self.assertIn("getPrice", names)

    def test_everything_in_a_path_is_a_parameter(self) -> None:
        for path, _, operation in operations(self.document):
            named = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "path"}
            self.assertEqual(set(re.findall(r"{(\w+)}", path)), named, path)

    def test_every_tag_is_told(self) -> None:
        told = {tag["name"] for tag in self.document["tags"]}
        self.assertEqual(told, {tag for _, _, operation in operations(self.document) for tag in operation["tags"]})

    def test_the_codes_of_an_operation_have_its_status(self) -> None:
        for path, _, operation in operations(self.document):
            for status, told in operation["responses"].items():
                schema = told["content"].get("application/problem+json", {}).get("schema")
                if schema is None:
                    self.assertEqual("200", status, path)
                else:
                    codes = schema["allOf"][1]["properties"]["code"]["enum"]
                    self.assertEqual({int(status)}, {CODES[code][0] for code in codes})

    def test_no_unknown_code(self) -> None:
        self.assertRaises(KeyError, refusals, ["no_such_code"])
        self.assertEqual({"400", "405", "413", "500", "503"}, set(refusals(ALWAYS)))

    def test_who_needs_no_key_is_not_refused_for_it(self) -> None:
        for path, _, operation in operations(self.document):
            self.assertEqual(bool(operation["security"]), "401" in operation["responses"], path)


class ReportTests(SynchronousTestCase):
    def test_there_is_one_for_each(self) -> None:
        paths, schemas = report_paths(), report_schemas()
        self.assertEqual([f"/reports/{report}" for report in REPORTS], list(paths))
        for path in paths.values():
            kept = path["get"]["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
            self.assertIn(kept.rpartition("/")[2], schemas)

    def test_only_what_has_pages_takes_a_cursor(self) -> None:
        def names(report: str) -> set[str]:
            return {one["name"] for one in report_paths()[f"/reports/{report}"]["get"]["parameters"]}

        self.assertLessEqual({"cursor", "page_size", "asset"}, names("usage"))
        self.assertEqual({"format", "from", "to", "key_id"}, names("report-summary"))


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif name in ("href", "src"):
                self.links.append(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data


class PageTests(SynchronousTestCase):
    def read(self, document: Json) -> _Reader:
        reader = _Reader()
        reader.feed(page(document).decode("utf-8"))
        return reader

    def test_has_every_operation(self) -> None:
        reader = self.read(prices(VERSION))
        for path, _, operation in operations(prices(VERSION)):
            self.assertIn(operation["operationId"], reader.ids)
            self.assertIn(f"#{operation['operationId']}", reader.links)
            self.assertIn(path, reader.text)

    def test_needs_nothing_from_outside(self) -> None:
        reader = self.read(prices(VERSION))
        self.assertTrue(all(link.startswith(("#", "/")) for link in reader.links), reader.links)
        self.assertFalse(reader.tags & {"script", "link", "img", "iframe"})
        self.assertNotIn("url(", page(prices(VERSION)).decode())
        self.assertIn(b"default-src 'none'", POLICY)

    def test_what_is_written_is_escaped(self) -> None:
        document = prices(VERSION)
        document["info"]["title"] = "<script>alert(1)</script>"
        document["paths"]["/price"]["get"]["summary"] = "<img src=x>"
        reader = self.read(document)
        self.assertFalse(reader.tags & {"script", "img"})
        self.assertIn("<script>alert(1)</script>", reader.text)
