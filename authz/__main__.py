"""The `authz` command, and `python -m authz`.

`authz probe` runs as often as a container's health is asked for, and goes its own way: importing
the command line takes ten times as long as probing. So does the service of `authz run`, which has
nothing to do with the command line.
"""

import sys


def main() -> None:
    """Entry point of the console script."""
    if sys.argv[1:2] == ["probe"]:
        from authz import probe  # noqa: PLC0415

        code = probe.main(sys.argv[2:])
        if code is not None:
            raise SystemExit(code)
    if sys.argv[1:3] == ["serve", "--ready-fd"]:
        from authz import service  # noqa: PLC0415

        raise SystemExit(service.main(sys.argv[3]))
    from authz import cli  # noqa: PLC0415

    cli.main()


if __name__ == "__main__":
    main()
