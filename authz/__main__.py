"""The `authz` command, and `python -m authz`.

`authz probe` runs as often as a container's health is asked for, and goes its own way: importing
the command line takes ten times as long as probing.
"""

import sys


def main() -> None:
    """Entry point of the console script."""
    if sys.argv[1:2] == ["probe"]:
        from authz import probe  # noqa: PLC0415

        code = probe.main(sys.argv[2:])
        if code is not None:
            raise SystemExit(code)
    from authz import cli  # noqa: PLC0415

    cli.main()


if __name__ == "__main__":
    main()
