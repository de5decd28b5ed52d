"""`python -m benchmarks NAME [--json]`: run one benchmark, or `all`; each prints ours, the reference and the ratio.

A benchmark is a module here with `run() -> dict`: {name, unit, ours, reference, ratio, ...}. `ratio` is how many times better ours
is than the reference, both measured in the same run; figures of different machines are not comparable otherwise.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import sys
from pathlib import Path

NAMES = sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)]) if not m.name.startswith("_"))


def main() -> int:
    """Run the named benchmarks."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=[*NAMES, "all"], help="which benchmark")
    parser.add_argument("--json", action="store_true", help="one JSON line per benchmark")
    parser.add_argument("--simulations", type=int, help="of `coverage`: simulated test sets per population (2000)")
    parser.add_argument("--budget", type=float, help="of `device`: seconds in all (600)")
    parser.add_argument("--out", help="of `device`: folder of its results (device-check)")
    parser.add_argument("--parts", nargs="+", help="of `device`: which parts")
    parser.add_argument(
        "--whole", type=int, help="of `fanout`: GPUs of one whole run in allocations, some 30 minutes on 8"
    )
    args = parser.parse_args()
    options = {"coverage": ("simulations",), "device": ("budget", "out", "parts"), "fanout": ("whole",)}
    for name in NAMES if args.name == "all" else [args.name]:
        chosen = {key: getattr(args, key) for key in options.get(name, ()) if getattr(args, key) is not None}
        result = importlib.import_module(f"benchmarks.{name}").run(**chosen)
        for row in [result] if isinstance(result, dict) else result:
            if args.json:
                print(json.dumps(row), flush=True)
            else:
                extra = {k: v for k, v in row.items() if k not in ("name", "unit", "ours", "reference", "ratio")}
                print(
                    f"{row['name']}: ours {row['ours']} {row['unit']}, reference {row['reference']}, ratio {row['ratio']}"
                )
                for key, value in extra.items():
                    print(f"    {key}: {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
