"""The files to which the imports of instruction files lead."""

from atlas_sdk.files.imports import follow


def found(root, *paths, **options):
    return follow(root, paths or ("CLAUDE.md",), **{"limit_bytes": 2**24, **options})


def followed(root, *paths, **options):
    imports = found(root, *paths, **options)
    assert imports.left_out is None
    return list(imports.paths)
