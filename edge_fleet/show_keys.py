"""How keys, proposals and rotations are shown to people; importing it registers them with `show`."""

from edge_fleet.commands.keys import Exported, KeyMade, Relocked
from edge_fleet.key_list import KeyList, short_id
from edge_fleet.rotate import Proposed, RoleKeys, Rotated
from edge_fleet.show import new_console, new_table, show


@show.register
def _(made: KeyMade) -> None:
    new_console().print(f"{made.file}: {made.type}, key id {made.keyid}.")


@show.register
def _(exported: Exported) -> None:
    if exported.file is None:
        new_console().print(exported.pem, end="")
    else:
        new_console().print(f"Wrote the public part of {exported.keyid} to {exported.file}.")


@show.register
def _(relocked: Relocked) -> None:
    state = "are encrypted with the new passphrase" if relocked.encrypted else "are not encrypted any more"
    new_console().print(f"{', '.join(relocked.files)} {state}.")


@show.register
def _(listed: KeyList) -> None:
    with_store = any(row.trusted_by is not None for row in listed.keys)
    table = new_table("file", "role", "type", "key id", "kept", *(["trusted by"] if with_store else []))
    for row in listed.keys:
        trusted_by = [", ".join(row.trusted_by or ()) or "-"] if with_store else []
        table.add_row(row.file, row.role, row.type or "-", short_id(row), row.kept, *trusted_by)
    console = new_console()
    console.print(table)
    for problem in filter(None, (row.problem for row in listed.keys)):
        console.print(problem, style="yellow")


@show.register
def explain(proposed: Proposed) -> None:
    """Show what a proposal says and what it lacks."""
    console = new_console()
    console.print(f"{proposed.file} proposes root {proposed.version}, until {proposed.expires:%Y-%m-%d}:")
    for change in proposed.changes:
        console.print(f"  - {change}")
    _print_roles(proposed.roles)
    for progress in proposed.progress:
        console.print(
            f"Of the {progress.whose} root {len(progress.signed)} of {progress.threshold} keys have signed"
            + (f"; these still can: {', '.join(progress.missing)}." if not progress.done else ".")
        )
    if all(progress.done for progress in proposed.progress):
        console.print("It is complete: publish it with edge-fleet apply.")


@show.register
def _(rotated: Rotated) -> None:
    new_console().print(f"The store trusts, by root {rotated.root}:")
    _print_roles(rotated.roles)


def _print_roles(roles: tuple[RoleKeys, ...]) -> None:
    table = new_table("role", "needs", "of the keys")
    for role in roles:
        table.add_row(role.role, str(role.threshold), ", ".join(role.keys))
    new_console().print(table)
