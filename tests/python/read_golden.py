"""Reads the golden bytes of every record kind with fastavro, from the published schemas alone.

Single-object encoding: C3 01, the CRC-64-AVRO fingerprint of the schema (little endian), the datum.
"""

import json
import pathlib
import sys

import fastavro
import fastavro.schema

ROOT = pathlib.Path(__file__).resolve().parents[2]


def load(topic):
    raw = json.loads((ROOT / "schemas" / f"{topic}.avsc").read_text())
    canonical = fastavro.schema.to_parsing_canonical_form(raw)
    digest = fastavro.schema.fingerprint(canonical, "CRC-64-AVRO")
    return fastavro.parse_schema(raw), bytes.fromhex(digest)


def plain(value):
    """Avro values as the JSON beside the golden bytes has them: unions of records are tagged, bytes are numbers."""
    if isinstance(value, bytes):
        return list(value)
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, tuple):
        name, record = value
        return {name.rsplit(".", 1)[-1]: plain(record)}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


def untag(value, like):
    """fastavro names every record of a union, also of `null | record`; serde names those of enums only."""
    if isinstance(value, dict) and isinstance(like, dict):
        if len(value) == 1 and set(value) != set(like):
            return untag(next(iter(value.values())), like)
        return {key: untag(item, like.get(key)) for key, item in value.items()}
    if isinstance(value, list) and isinstance(like, list) and len(value) == len(like):
        return [untag(item, other) for item, other in zip(value, like)]
    return value


def main():
    passed = failed = 0
    for folder in sorted((ROOT / "crates/p2-stream/golden").iterdir()):
        schema, fingerprint = load(folder.name)
        for path in sorted(folder.glob("*.avro")):
            data = path.read_bytes()
            expected = json.loads(path.with_suffix(".json").read_text())
            try:
                assert data[:2] == b"\xc3\x01", "not single-object encoding"
                # fastavro prints the fingerprint as the number; on the wire it is little endian.
                assert data[2:10] in (fingerprint, fingerprint[::-1]), "another schema"
                stream = __import__("io").BytesIO(data[10:])
                found = fastavro.schemaless_reader(stream, schema, return_record_name=True)
                assert not stream.read(), "bytes are left over"
                found = untag(plain(found), expected)
                assert found == expected, f"{found} is not {expected}"
                passed += 1
            except Exception as error:  # noqa: BLE001 - every kind of failure is a failed file
                failed += 1
                print(f"{path.relative_to(ROOT)}: {error}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
