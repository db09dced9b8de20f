"""An owner's folder that an examination finds things in: what tests of it share."""

import csv

from umbel.client.doctor import examine
from umbel.client.home import Home

SECRET = "patient Mary Poppins"
ROWS = [(f"{SECRET} {number}", "fine" if number % 2 else "ill") for number in range(6)]


def written(path, rows, header=("note", "class")):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def moved(home, address):
    """The same folder, with the server elsewhere."""
    lines = [
        line
        for line in home.settings_file.read_text().splitlines()
        if not line.startswith(("address", "# address"))
    ]
    home.settings_file.write_text("\n".join([*lines, f'address = "{address}"']) + "\n")
    return Home(home.path)


def found(home, name):
    """The findings of one name, and their text in one."""
    findings = [finding for finding in examine(home) if finding.name == name]
    return [finding.level for finding in findings], " | ".join(map(str, findings))
