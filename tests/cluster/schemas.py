"""Schemas of objects: Kubernetes' own, and KubeRay's of its custom resources."""

from functools import cache
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.cluster.documents import ROOT, Document

KUBERNETES = "1.34"
CUSTOM = {"RayCluster": "ray.io_rayclusters.yaml", "RayJob": "ray.io_rayjobs.yaml"}
CRDS = ROOT.parent / "shared" / "schemas" / "kuberay"


def schema_faults(document: Document) -> list[str]:
    """What the schema of a document's kind forbids, unknown fields among it."""
    if document["kind"] in CUSTOM:
        validator = _custom(document["kind"])
        return [f"{'.'.join(map(str, error.path))}: {error.message}" for error in validator.iter_errors(document)]
    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [str(error)]
    return []


@cache
def _custom(kind: str) -> jsonschema.Draft7Validator:
    file = CRDS / CUSTOM[kind]
    if not file.exists():
        pytest.skip(f"KubeRay's definition of {kind} is not at {file}")
    definition = yaml.load(file.read_text(), yaml.CSafeLoader)
    schema = next(v["schema"]["openAPIV3Schema"] for v in definition["spec"]["versions"] if v["name"] == "v1")
    return jsonschema.Draft7Validator(_strict(schema))


def _strict(schema: Any) -> Any:
    """As Kubernetes reads it: numbers or text where it says so, and nothing that is not named."""
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    strict = {name: _strict(part) for name, part in schema.items() if not (name == "format" and isinstance(part, str))}
    closed = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
    if closed and not schema.get("x-kubernetes-preserve-unknown-fields") and "additionalProperties" not in schema:
        strict["additionalProperties"] = False
    return strict
