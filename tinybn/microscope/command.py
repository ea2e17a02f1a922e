"""The command `python -m tinybn microscope`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence

from tinybn.checkpoint import replace
from tinybn.microscope import ladder, terminal, whatif

LARGEST_SEED = 2**32 - 1


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    found = argparse.ArgumentParser(
        prog="python -m tinybn microscope",
        description="Step through the gradient of a norm, one contribution at a time: in a page "
        "that opens from disk, or in the terminal.",
    )
    add = found.add_argument
    add("--out", help="the page to write (default: microscope.html, or ladder.html)")
    add("--text", action="store_true", help="step through it here; write no page")
    add(
        "--view",
        choices=["norm", "ladder"],
        default="norm",
        help="one norm (default), or the gradient's size in each layer of a deep network",
    )
    add("--norm", choices=["batch", "layer", "rms"], default="batch", help="which to show first")
    add(
        "--data",
        choices=["cookie", "digits"],
        default="cookie",
        help="the cookie of the lesson (default), or a hidden layer of a network on digits",
    )
    add("--unit", type=int, help="digits, batch norm: which hidden unit (default: 7)")
    add("--example", type=int, help="digits, layer and RMS norm: which example (default: 0)")
    add("--batch", type=int, help="digits: how many (default: 8)")
    add("--seed", type=int, default=0, help="of weights and random gradients (default: 0)")
    return found


def main(arguments: Sequence[str]) -> None:
    """Run the command. SystemExit with one line if an argument does not fit."""
    options = parser()
    asked = options.parse_args(arguments)
    command = shlex.join(["python", "-m", "tinybn", "microscope", *arguments])
    try:
        _check(asked)
        page_or_text = _ladder(asked, command) if asked.view == "ladder" else _norm(asked, command)
        if page_or_text is not None:
            out = asked.out or ("ladder.html" if asked.view == "ladder" else "microscope.html")
            replace(out, page_or_text.encode())
            sys.stdout.write(f"wrote {out}: open it in a browser\n")
    except OSError as error:
        raise SystemExit(f"microscope: {error.filename}: {error.strerror}") from error
    except (ValueError, ModuleNotFoundError) as error:
        raise SystemExit(f"microscope: {error}") from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _check(asked: argparse.Namespace) -> None:
    """ValueError for options that exclude each other."""
    given = {name: getattr(asked, name) for name in ("unit", "example", "batch")}
    for name, value in given.items():
        if value is not None and (asked.data != "digits" or asked.view == "ladder"):
            raise ValueError(f"--{name} needs --data digits")
    if asked.unit is not None and asked.norm != "batch":
        raise ValueError(
            f"{asked.norm} norm looks at all units of one example: use --example in place of --unit"
        )
    if asked.example is not None and asked.norm == "batch":
        raise ValueError("batch norm looks at one unit of all examples: use --unit in place of it")
    if asked.view == "ladder" and (asked.data != "cookie" or asked.norm != "batch"):
        raise ValueError("--view ladder shows all norms on digits: leave out --data and --norm")
    if asked.text and asked.out:
        raise ValueError("--text writes no page: leave out --out")
    if not 0 <= asked.seed <= LARGEST_SEED:
        raise ValueError(f"expected a seed from 0 to {LARGEST_SEED}, got {asked.seed}")


def _norm(asked: argparse.Namespace, command: str) -> str | None:
    """The page; or None after stepping through the first recording in the terminal."""
    if asked.data == "digits":
        given = {k: getattr(asked, k) for k in ("unit", "example", "batch")}
        chosen = {k: v for k, v in given.items() if v is not None}
        bundle = whatif.digits(command, norm=asked.norm, seed=asked.seed, **chosen)
    else:
        bundle = whatif.cookies(command, norm=asked.norm, seed=asked.seed)
    if asked.text:
        terminal.walk_through(bundle.first())
        return None
    return bundle.page()


def _ladder(asked: argparse.Namespace, command: str) -> str | None:
    """The page; or None after printing the first ladder."""
    if asked.text:
        found = ladder.record_ladder("relu", 128, "he", command=command, seed=asked.seed)
        sys.stdout.write(ladder.ladder_text(found))
        return None
    return ladder.ladder_page(command, asked.seed)
