"""What the STAC extensions of our items allow, for pystac's validation without the internet.

pystac brings the schemas of the core alone, and would fetch these. They are restated from each
extension's own text: the fields that we use, where they may stand and of what kind they are; any
other field of an extension's prefix is an error, as it is in the schemas that are published.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pystac
from pystac.validation import JsonSchemaSTACValidator

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
NUMBER: Schema = {"type": "number"}
COUNT: Schema = {"type": "integer", "minimum": 0}
COMMON_NAMES = [
    "pan", "coastal", "blue", "green", "green05", "yellow", "red", "rededge", "rededge071",
    "rededge075", "rededge078", "nir", "nir08", "nir09", "cirrus", "swir16", "swir22", "lwir",
    "lwir11", "lwir12",
]  # fmt: skip
SCHEME: Schema = {
    "type": "object",
    "required": ["type", "platform"],
    "properties": {
        "type": TEXT, "platform": {"type": "string", "pattern": "^https?://"}, "region": TEXT,
        "requester_pays": FLAG,
    },
    "if": {"properties": {"type": {"const": "aws-s3"}}},
    "then": {
        "required": ["bucket", "region"],
        "properties": {
            "platform": {"const": "https://{bucket}.s3.{region}.amazonaws.com"},
            "bucket": {"type": "string", "pattern": "^[a-z0-9][a-z0-9-.]{1,61}[a-z0-9]$"},
            "region": {"type": "string", "pattern": "^[a-z0-9-]+$"},
        },
    },
}  # fmt: skip
REFERENCE: Schema = {
    "type": "object",
    "required": ["key", "href"],
    "properties": {"key": TEXT, "href": {"type": "string", "pattern": "^#/assets/."}},
}

FIELDS: dict[str, tuple[str, dict[str, Schema]]] = {
    "eo/v2.0.0": (
        "eo:",
        {
            "eo:cloud_cover": {"type": "number", "minimum": 0, "maximum": 100},
            "eo:common_name": {"enum": COMMON_NAMES},
            "eo:center_wavelength": {"type": "number", "exclusiveMinimum": 0},
        },
    ),
    "file/v2.1.0": (
        "file:",
        {"file:checksum": {"type": "string", "pattern": "^[a-f0-9]+$"}, "file:size": COUNT},
    ),
    "grid/v1.1.0": ("grid:", {"grid:code": {"type": "string", "pattern": "^[A-Z0-9]+-.+$"}}),
    "processing/v1.2.0": (
        "processing:",
        {"processing:level": TEXT, "processing:version": TEXT},
    ),
    "projection/v2.0.0": (
        "proj:",
        {
            "proj:code": {"type": "string", "pattern": "^[A-Z]+:\\d+$"},
            "proj:shape": {"type": "array", "minItems": 2, "maxItems": 2, "items": COUNT},
            "proj:transform": {
                "type": "array",
                "items": NUMBER,
                "oneOf": [{"minItems": n, "maxItems": n} for n in (6, 9)],
            },
        },
    ),
    "raster/v2.0.0": ("raster:", {"raster:scale": NUMBER, "raster:offset": NUMBER}),
    "mgrs/v1.0.0": (
        "mgrs:",
        {
            "mgrs:utm_zone": {"type": "integer", "minimum": 1, "maximum": 60},
            "mgrs:latitude_band": {"type": "string", "pattern": "^[C-HJ-NP-X]$"},
            "mgrs:grid_square": {"type": "string", "pattern": "^[A-HJ-NP-Z][A-HJ-NP-V]$"},
        },
    ),
    "sentinel-2/v1.0.0": (
        "s2:",
        {
            "s2:mgrs_tile": TEXT,
            "s2:processing_baseline": {"type": "string", "pattern": "^\\d\\d\\.\\d\\d$"},
        },
    ),
    "storage/v2.0.0": (
        "storage:",
        {
            "storage:schemes": {
                "type": "object",
                "minProperties": 1,
                "additionalProperties": SCHEME,
            },
            "storage:refs": {"type": "array", "minItems": 1, "items": TEXT},
        },
    ),
    "version/v1.2.0": ("", {"version": TEXT, "deprecated": FLAG}),
    "virtual-assets/v1.0.0": ("vrt:", {"vrt:hrefs": {"type": "array", "items": REFERENCE}}),
    "zarr/v1.1.0": (
        "zarr:",
        {
            "zarr:consolidated": FLAG,
            "zarr:node_type": {"enum": ["array", "group"]},
            "zarr:zarr_format": {"enum": [2, 3]},
        },
    ),
}


def _schema(name: str, prefix: str, fields: dict[str, Schema]) -> Schema:
    uri = f"https://stac-extensions.github.io/{name}/schema.json"
    held: Schema = {"type": "object", "properties": fields}
    if prefix:
        held |= {"patternProperties": {f"^(?!{prefix})": {}}, "additionalProperties": False}
    held_or_bands = {
        "allOf": [held],
        "properties": {"bands": {"type": "array", "items": held}},
    }
    if prefix == "vrt:":
        virtual = {"properties": {"roles": {"contains": {"const": "virtual"}}}}
        held_or_bands |= {"if": {"required": ["vrt:hrefs"]}, "then": virtual}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": uri,
        "type": "object",
        "required": ["stac_extensions", "properties", "assets"],
        "properties": {
            "stac_extensions": {"contains": {"const": uri}},
            "properties": held,
            "assets": {"additionalProperties": held_or_bands},
        },
    }


def validator() -> JsonSchemaSTACValidator:
    """pystac's own, which has no need to fetch anything."""
    made = JsonSchemaSTACValidator()
    for name, (prefix, fields) in FIELDS.items():
        schema = _schema(name, prefix, fields)
        made.schema_cache[schema["$id"]] = schema
    return made


VALIDATOR = validator()


def check(document: dict[str, Any]) -> None:
    """Raises what pystac finds wrong with an item or a collection, its extensions included."""
    pystac.validation.validate_dict(document, validator=VALIDATOR)
    if document["type"] != "Feature":
        return
    used = {
        f"https://stac-extensions.github.io/{name}/schema.json": p for name, p in FIELDS.items()
    }
    assert set(document["stac_extensions"]) <= set(used)
    there = set(_keys(document))
    for uri, (prefix, fields) in used.items():
        needed = prefix and any(key.startswith(prefix) for key in there)
        assert uri in document["stac_extensions"] or not needed, f"{uri} is not declared"
        if uri in document["stac_extensions"]:
            assert there & set(fields), f"{uri} is declared for nothing"


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    if isinstance(value, list):
        for member in value:
            yield from _keys(member)
