"""A check as files for other programs: JSON, SARIF and JUnit."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from xml.etree import ElementTree

import pandas as pd

import hiplora
from hiplora.files import hashes_of
from hiplora.measures.limits import Limit, layer_measures
from hiplora.measures.registry import MEASURES
from hiplora.printable import printable

if TYPE_CHECKING:
    from hiplora.adapters import Update
    from hiplora.study.check import Check

SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def as_json(check: "Check") -> str:
    """Return everything as JSON; a value that is not known is null."""
    study = check.study
    found = {
        "hiplora": hiplora.__version__,
        "base": study.source,
        "k": study.k,
        "geometry": study.geometry,
        "power": study.power,
        "within": check.code == 0,
        "limits": [
            {"measure": limit.key, "at_most" if limit.most else "at_least": limit.bound, "whole": limit.whole}
            for limit in check.limits
        ],
        "adapters": [
            {
                "name": update.name,
                "method": update.method,
                "from": update.source,
                "sha256": hashes_of(update.folder),
                "within": bool(check.table.loc[check.table["adapter"] == update.name, "within"].all()),
                "caveats": study.caveats[update.name],
            }
            for update in study.updates
        ],
        "not_checked": check.refusals,
        "results": json.loads(check.table.to_json(orient="records", double_precision=15)),
    }
    return json.dumps(found, indent=1)


def as_sarif(check: "Check") -> str:
    """Return one result for each module or adapter that is not within a limit, as SARIF 2.1.0 (OASIS)."""
    rules = list(dict.fromkeys(limit.key for limit in check.limits))
    by_name = {update.name: update for update in check.study.updates}
    invocation: dict[str, Any] = {"executionSuccessful": check.code != 2}
    if check.refusals:
        invocation["toolExecutionNotifications"] = [
            {"level": "error", "message": {"text": sentence}} for sentence in check.refusals
        ]
    results = [
        {
            "ruleId": row["measure"],
            "ruleIndex": rules.index(row["measure"]),
            "level": "error",
            "message": {"text": printable(f"{row['adapter']}: {row['reason']}")},
            "locations": [_location(by_name[row["adapter"]], row["module"])],
            "partialFingerprints": {"adapterModuleMeasure/v1": _fingerprint(row)},
            "properties": {"value": None if pd.isna(row["value"]) else row["value"], "limit": row["limit"]},
        }
        for row in check.over.to_dict("records")
    ]
    run = {
        "tool": {
            "driver": {
                "name": "hiplora",
                "version": hiplora.__version__,
                "rules": [_rule(key, [each for each in check.limits if each.key == key]) for key in rules],
            }
        },
        "invocations": [invocation],
        "columnKind": "unicodeCodePoints",
        "results": results,
    }
    return json.dumps({"$schema": SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1)


def as_junit(check: "Check") -> str:
    """Return one suite per adapter and one case per module and limit, as JUnit XML."""
    whole = ElementTree.Element("testsuites", name="hiplora check")
    for name, rows in check.table.groupby("adapter", sort=False):
        suite = ElementTree.SubElement(whole, "testsuite", name=printable(str(name)))
        suite.set("tests", str(len(rows)))
        suite.set("failures", str(int((~rows["within"]).sum())))
        suite.set("errors", "0")
        for row in rows.to_dict("records"):
            case = ElementTree.SubElement(suite, "testcase", classname=printable(row["adapter"]))
            case.set("name", printable(f"{row['measure']} {row['module']}".strip()))
            if not row["within"]:
                kind = "unknown" if pd.isna(row["value"]) else "limit"
                ElementTree.SubElement(case, "failure", type=kind, message=printable(row["reason"]))
    if check.refusals:
        suite = ElementTree.SubElement(whole, "testsuite", name="not checked", tests=str(len(check.refusals)))
        suite.set("failures", "0")
        suite.set("errors", str(len(check.refusals)))
        for sentence in check.refusals:
            case = ElementTree.SubElement(suite, "testcase", classname="hiplora check", name="not checked")
            ElementTree.SubElement(case, "error", type="refused", message=printable(sentence))
    ElementTree.indent(whole)
    return ElementTree.tostring(whole, encoding="unicode", xml_declaration=True)


def _rule(key: str, limits: Sequence[Limit]) -> dict[str, Any]:
    """Return what SARIF says of a measure with its limits."""
    column = limits[0].column
    owner = next((info for info in MEASURES.values() if column in (info.column, *info.beside)), None)
    name = layer_measures().get(column, column)
    rule: dict[str, Any] = {
        "id": key,
        "shortDescription": {"text": f"{name}: {'; '.join(limit.words for limit in limits)}."},
        "defaultConfiguration": {"level": "error"},
    }
    if owner is not None:
        rule["fullDescription"] = {"text": owner.meaning}
    return rule


def _location(update: "Update", module: str) -> dict[str, Any]:
    """Return where a module is: in a file, relative to the current folder where it lies below it."""
    name = printable(f"{update.name}/{module}" if module else update.name)
    logical = {"name": printable(module or update.name), "fullyQualifiedName": name, "kind": "module"}
    location: dict[str, Any] = {"logicalLocations": [logical]}
    if (folder := update.folder) is not None:
        config = folder / "adapter_config.json"
        path = (config if config.is_file() else folder).absolute()
        here = Path.cwd()
        uri = quote(path.relative_to(here).as_posix()) if path.is_relative_to(here) else path.as_uri()
        location["physicalLocation"] = {"artifactLocation": {"uri": uri}, "region": {"startLine": 1}}
    return location


def _fingerprint(row: Any) -> str:
    """Return a key that stays the same from run to run."""
    return hashlib.sha256("\0".join((row["adapter"], row["module"], row["measure"])).encode()).hexdigest()
