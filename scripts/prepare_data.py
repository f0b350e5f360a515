"""Download data sets ahead of time, or check existing ones: MNIST, music and text, about 17 MB.

    python scripts/prepare_data.py                     all of them, into data/
    python scripts/prepare_data.py music --data-dir ~/data

Runs download what they need by themselves; this is for machines that will have no network then. The Penn Treebank is
not public: a line says where to put your copy.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this clone, whichever one is installed

from src.config.errors import UserError, in_one_line
from src.data import mnist, music, text
from src.data.files import File, find, read
from src.utils.console import CommandLine, printing

FILES = {
    "mnist": list(mnist.FILES.values()),
    "music": list(music.FILES.values()),
    "text": [*text.CHARACTERS.values(), *text.PENN_TREEBANK.values()],
}


@printing()
def main() -> None:
    """The command."""
    parser = CommandLine(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(FILES)} (default: all)")
    parser.add_argument("--data-dir", default="data", metavar="FOLDER", help="default: data")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - FILES.keys():
        parser.exit(1, f"error: {', '.join(sorted(unknown))}: not a data set; legal: {', '.join(FILES)}\n")
    with in_one_line():
        files = [file for name in arguments.names or FILES for file in FILES[name]]
        wrong = sum(not _prepare(file, arguments.data_dir) for file in files)
    sys.exit(int(wrong > 0))


def _prepare(file: File, data_dir: str) -> bool:
    """Fetch a file, or check an existing one; False if it is wrong, or missing although it is public."""
    is_there = find(file, data_dir) is not None
    try:
        read(file, data_dir)
    except UserError as error:
        print(f"{file.path}: {error}", flush=True)
        return file.url is None and not is_there
    print(f"{file.path}: present, {file.size:,} bytes; {file.terms}", flush=True)
    return True


if __name__ == "__main__":
    main()
