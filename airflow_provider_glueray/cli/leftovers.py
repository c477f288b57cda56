"""The commands that `glueray sessions` and `glueray clusters` share: list resources, and end those left over."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple, TextIO

from airflow_provider_glueray.cli.output import EXIT_FAILED, EXIT_OK, age, print_table
from airflow_provider_glueray.core.errors import GlueRayError
from airflow_provider_glueray.core.extras import extra
from airflow_provider_glueray.core.runs import RunRef

_Command = Callable[[argparse.Namespace, Any, TextIO], int]


class Resource(NamedTuple):
    """A session or a cluster.

    :param age: since its creation.
    :param columns: what `list` prints besides id, status and age.
    :param is_live: whether it costs money, and can be ended.
    """

    ref: RunRef
    status: str
    age: timedelta
    columns: Mapping[str, Any]
    is_live: bool = True

    def row(self) -> dict[str, Any]:
        """Return what `list` prints."""
        minutes = round(self.age.total_seconds() / 60, 1)
        return {"id": self.ref.id, "status": self.status, "age_minutes": minutes, **self.columns}


class Leftovers:
    """A group of commands for one kind of resource; subclasses find the resources and have these class attributes.

    ``group``, ``help``, ``description`` are those of the group; ``noun`` names the resources and ``live`` the state of
    those that can be ended; ``end`` is the command that ends them and ``ending`` its participle; ``needs`` is the extra
    that the hook needs; the rest are the texts of options, ``list_all_help`` where the service also lists resources
    that have ended.
    """

    group = help = description = noun = live = end = ending = needs = ""
    ids_help = all_help = list_all_help = conn_id_help = ""

    def add_options(self, command: argparse.ArgumentParser) -> None:
        """Add the options that only this kind has."""

    def connect(self, arguments: argparse.Namespace) -> Any:
        """Return the hook.

        :raises GlueRayError: the connection is missing, of another type, or needs an extra that is not installed.
        """
        raise NotImplementedError

    def find(self, hook: Any, dag: str | None, tags: Mapping[str, str]) -> Iterator[Resource]:
        """Yield the resources that a DAG has made, if one is named, and that have all of ``tags``."""
        raise NotImplementedError

    def add_to(self, groups: Any) -> None:
        """Register the group with argparse's subparsers."""
        group = groups.add_parser(self.group, help=self.help, description=self.description)
        commands = group.add_subparsers(title="commands", required=True, metavar="COMMAND")
        listing = self._command(commands, "list", self._list, f"show the {self.group} that are {self.live}")
        listing.set_defaults(all=not self.list_all_help)
        if self.list_all_help:
            listing.add_argument("--all", action="store_true", help=self.list_all_help)
        text = f"{self.end} {self.group}, by id or by what they have in common"
        ending = self._command(commands, self.end, self._end, text)
        ending.add_argument("ids", nargs="*", metavar="ID", help=self.ids_help)
        ending.add_argument("--all", action="store_true", help=self.all_help)
        ending.add_argument("--dry-run", action="store_true", help="only say which")

    def _command(self, commands: Any, name: str, run: _Command, text: str) -> argparse.ArgumentParser:
        command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
        command.add_argument("--conn-id", help=self.conn_id_help)
        self.add_options(command)
        command.add_argument("--dag", help="made by this DAG")
        command.add_argument(
            "--tag", action="append", default=[], metavar="KEY=VALUE", help="with this tag (repeatable)"
        )
        command.add_argument("--older-than", type=age, metavar="AGE", help="made longer ago than this: 90m, 2h, 1d")
        command.add_argument("--json", action="store_true", help="print JSON")
        command.set_defaults(run=partial(self._run, run))
        return command

    def _run(self, command: _Command, arguments: argparse.Namespace) -> int:
        out = sys.stdout
        # Airflow logs to stdout, which here belongs to the answer.
        with redirect_stdout(sys.stderr):
            with extra(self.needs, f"glueray {self.group}"):
                hook = self.connect(arguments)
            return command(arguments, hook, out)

    def _list(self, arguments: argparse.Namespace, hook: Any, out: TextIO) -> int:
        rows = [found.row() for found in self._chosen(arguments, hook) if arguments.all or found.is_live]
        if arguments.json:
            print(json.dumps(rows), file=out)
        elif not rows:
            print(f"no {self.noun}", file=out)
        else:
            print_table(rows, out)
        return EXIT_OK

    def _end(self, arguments: argparse.Namespace, hook: Any, out: TextIO) -> int:
        if not (arguments.ids or arguments.all or arguments.dag or arguments.tag or arguments.older_than):
            options = "ids, --dag, --tag, --older-than or --all"
            print(f"glueray {self.group} {self.end}: say which: {options}", file=sys.stderr)
            return EXIT_FAILED
        found = {each.ref.id: each for each in self._chosen(arguments, hook) if each.is_live}
        if arguments.ids:
            for name in sorted(set(arguments.ids) - set(found)):
                print(f"{name} is not {self.live}, or does not fit the other options", file=sys.stderr)
            found = {name: each for name, each in found.items() if name in arguments.ids}
        failed = 0
        for name, each in found.items():
            try:
                if not arguments.dry_run:
                    hook.stop(each.ref)
            except GlueRayError as error:
                failed += 1
                print(f"{name}: {error}", file=sys.stderr)
                continue
            if not arguments.json:
                doing = f"would {self.end}" if arguments.dry_run else self.ending
                print(f"{doing} {name} ({each.status})", file=out)
        if arguments.json:
            print(json.dumps([each.row() for each in found.values()]), file=out)
        elif not found:
            print(f"no {self.noun} to {self.end}", file=out)
        return EXIT_FAILED if failed else EXIT_OK

    def _chosen(self, arguments: argparse.Namespace, hook: Any) -> list[Resource]:
        """Return the resources that fit the options which both commands have."""
        found = self.find(hook, arguments.dag, dict(pair.partition("=")[::2] for pair in arguments.tag))
        return [each for each in found if arguments.older_than is None or each.age > arguments.older_than]
