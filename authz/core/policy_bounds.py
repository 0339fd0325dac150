"""What a policy file may be called, and how large it is: for those who read none of it.

It imports nothing: a process that fetches an archive need not load the language of policies.
"""

from typing import Final

#: A file's size, bytes. The seed's policy has 420; ten thousand rules fit.
MAX_FILE: Final = 1 << 20
#: What the names of policy files end in.
SUFFIXES: Final = (".yaml", ".yml")


def is_policy_file(name: str) -> bool:
    """Whether a bundle's file is one of policies: as in a directory, none that is hidden."""
    hidden = any(part.startswith(".") for part in name.split("/"))
    return name.endswith(SUFFIXES) and not hidden
