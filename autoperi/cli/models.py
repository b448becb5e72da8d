"""``autoperi models``: what there is, what it is made of, and whether its files are whole."""

from __future__ import annotations

import argparse
from typing import Any

from autoperi.cli import common
from autoperi.data.files import check_writable
from autoperi.errors import WeightsError

EXAMPLE = """examples:
  autoperi models list
  autoperi models info autoperi-base
  autoperi models download owner/name --to model/ --revision v1
  autoperi models verify model/"""


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = common.add_command(
        subparsers,
        "models",
        "list, describe, download and verify models",
        description="Look after models.",
        example=EXAMPLE,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    _verb(verbs, "list", "the models in this installation", list_models)
    anywhere = "bundled name, directory or hub repository owner/name"
    command = _verb(verbs, "info", "what a model is made of", info)
    common.add_option(command, "name", "NAME_OR_DIR", anywhere)
    command = _verb(verbs, "download", "copy a model into a directory, e.g. for a machine without network", download)
    common.add_option(command, "name", "NAME", anywhere)
    what = "where it goes; from_pretrained('DIR') reads it there"
    common.add_option(command, "--to", "DIR", what, required=True)
    common.add_option(command, "--revision", "R", "branch, tag or commit of a hub repository")
    common.add_option(command, "--force", "", "overwrite what is in DIR, and download anew what is cached")
    command = _verb(verbs, "verify", "compare the files of a model with their sha256", verify_model)
    common.add_option(command, "name", "NAME_OR_DIR", "bundled name or directory")


def _verb(verbs: Any, name: str, summary: str, func: Any) -> argparse.ArgumentParser:
    parser = common.add_command(verbs, name, summary, description=f"Models: {summary}.", example=EXAMPLE)
    common.add_json(parser)
    parser.set_defaults(func=func)
    return parser


def list_models(args: argparse.Namespace) -> int:
    """The bundled models."""
    from autoperi.hub.store import list_pretrained

    models = [info.to_dict() for info in list_pretrained()]
    if args.json:
        common.say_json({"models": models})
        return 0
    rows = [{**m, "size": f"{m['size_bytes'] / 1e6:.1f} MB", "here": "yes" if m["available"] else "no"} for m in models]
    same = {key: key for key in ("name", "status", "here", "size", "licence", "description")}
    columns = same | {"here": "installed"}
    common.say(common.format_table(rows, columns))
    return 0


def info(args: argparse.Namespace) -> int:
    """What a model says of itself."""
    facts = _facts(args.name)
    if args.json:
        common.say_json(facts)
        return 0
    for key, value in facts.items():
        if key == "components":
            for name, part in value.items():
                config = ", ".join(f"{k}={v}" for k, v in part["config"].items())
                common.say(f"component    {name} ({part['bytes'] / 1e6:.2f} MB): {config}")
        elif key != "metadata" and value not in ("", None, {}, []):
            text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
            common.say(f"{key:<12} {', '.join(text) if isinstance(text, (list, tuple)) else text}")
    return 0


def _facts(name: str) -> dict[str, Any]:
    from autoperi.hub.bundle import read_config
    from autoperi.hub.store import list_pretrained, resolve

    entry = next((m.to_dict() for m in list_pretrained() if name == m.name or name in m.aliases), None)
    if entry is not None and not (entry["status"] == "active" and entry["available"]):
        return {k: v for k, v in entry.items() if k != "sha256"}
    found = resolve(name)
    path = found.path
    if path is None:
        from autoperi.hub.download import fetch

        path = fetch(found.name)
    config = read_config(path)
    files = {n: path / part["file"] for n, part in config["components"].items()}
    missing = [file.name for file in files.values() if not file.is_file()]
    if missing:
        raise WeightsError(f"'{path}' lacks {', '.join(missing)}; download or save the model again")
    return {
        "name": config["name"],
        "kind": found.kind,
        "directory": str(path),
        "description": (entry or {}).get("description") or config.get("metadata", {}).get("description", ""),
        "aliases": (entry or {}).get("aliases", []),
        "status": (entry or {}).get("status", ""),
        "licence": config.get("licence", ""),
        "autoperi": config["autoperi_version"],
        "versions": config.get("versions", {}),
        "components": {
            n: {"file": part["file"], "bytes": files[n].stat().st_size, **part}
            for n, part in config["components"].items()
        },
        "metadata": config.get("metadata", {}),
    }


def download(args: argparse.Namespace) -> int:
    """Copy a model into a directory."""
    from autoperi.hub.download import download_to

    check_writable(args.to, folder=True)
    path = download_to(args.name, args.to, revision=args.revision, force=args.force)
    if args.json:
        files = sorted(p.name for p in path.iterdir())
        common.say_json({"model": args.name, "revision": args.revision, "directory": str(path), "files": files})
    else:
        common.say(f"{args.name} is in {path}; load it with from_pretrained('{path}')")
    return 0


def verify_model(args: argparse.Namespace) -> int:
    """Compare files with their checksums, then read them."""
    from autoperi.hub.bundle import load_bundle, verify
    from autoperi.hub.store import resolve

    found = resolve(args.name)
    if found.path is None:
        raise WeightsError(
            f"{args.name!r} is a hub repository; download it first with `autoperi models download {args.name} --to DIR`"
        )
    rows = [{"file": row.file, "ok": row.ok, "sha256": row.sha256 or None} for row in verify(found.path)]
    if found.info is not None:
        for row in rows:  # a bundled model must also be the one that was released
            row["ok"] = bool(row["ok"]) and found.info.sha256.get(str(row["file"])) == row["sha256"]
    if not args.json:
        common.say(common.format_table(rows, {key: key for key in ("file", "ok", "sha256")}))
    load_bundle(found.path)  # says in one line what is wrong with a file
    bad = [str(row["file"]) for row in rows if not row["ok"]]
    if bad:
        raise WeightsError(
            f"{', '.join(bad)} of {args.name!r} is not what was released; reinstall with `pip install "
            "--force-reinstall autoperi`"
        )
    if args.json:
        common.say_json({"model": found.name, "directory": str(found.path), "ok": True, "files": rows})
    return 0
