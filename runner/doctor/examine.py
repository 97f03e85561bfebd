"""Examination of the data sets on disk; nothing is written into their folders.

`examine` checks folders, lists and file names; `examine_images` also decodes every image.
"""

from __future__ import annotations

import logging
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from runner.doctor.checks import counts_of, faults_and_notes, parts_of
from runner.doctor.open_images import open_images
from tasks.dataset_files import Counts, DatasetFacts, LocatedDataset, NotExtractedError, ReadOptions
from tasks.datasets.table import TableError
from tasks.reading import (
    TABLE,
    dataset_facts,
    dataset_names,
    find_dataset,
    find_deeper,
    read_located,
    table_domains,
)
from tasks.schema import RawDomain
from tasks.suggestion import suggestion

Status = Literal["ok", "warning", "missing", "broken"]

NUM_LISTED = 20
"""Maximum number of unreadable images listed one by one; the others are counted."""


@dataclass(frozen=True, slots=True)
class Report:
    """State of one data set.

    Attributes:
        name: name of its reader.
        title: usual name in the literature.
        status: "ok"; "missing": not found; "broken": found but not readable; "warning": readable,
            with faults.
        folder: its folder, or None.
        variant: the layout found in that folder, or None.
        splits: counts of "train", "validation" (if the data set has one), "query" and "gallery".
        expected: counts from the literature, by the same keys; empty if unknown.
        faults: problems with remedies, one or two sentences each.
        notes: information that is not a fault.
        is_absent: whether the only fault is that no part of the data set was found.
        image_paths: images of all splits, without duplicates.
        unreadable: path -> reason why the image cannot be decoded; None if images were not opened.
    """

    name: str
    title: str
    status: Status
    folder: Path | None = None
    variant: str | None = None
    splits: Mapping[str, Counts] = field(default_factory=dict[str, Counts])
    expected: Mapping[str, Counts] = field(default_factory=dict[str, Counts])
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    is_absent: bool = False
    image_paths: tuple[str, ...] = ()
    unreadable: Mapping[str, str] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values, printed by `doctor --json` under the name of the data set."""
        values: dict[str, Any] = {
            "status": self.status,
            "root": None if self.folder is None else str(self.folder),
            "variant": self.variant,
            "splits": {part: asdict(counts) for part, counts in self.splits.items()},
            "problems": [*self.faults, *self.notes],
        }
        if self.unreadable is None:
            return values
        return values | {"num_opened": len(self.image_paths), "unreadable": list(self.unreadable)}


def check_names(names: Sequence[str], what: str) -> None:
    """Checks that every name has a reader.

    Args:
        names: names of data sets.
        what: option or key they come from, for the message.

    Raises:
        ValueError: A name is unknown; the message suggests the nearest one.
    """
    known = dataset_names()
    for name in names:
        if name not in known:
            raise ValueError(
                f"{what}: expected one of {', '.join(known)}; got {name!r}"
                + suggestion(name, known, 0.5)
            )


def examine(names: Sequence[str], root: Path, options: ReadOptions) -> dict[str, Report]:
    """Locates and reads data sets, including withdrawn ones; opens no image.

    Generated splits are written to a temporary folder. Archives that a run would extract are
    located but not read.

    Args:
        names: data sets that have a reader.
        root: common folder of the data sets.
        options: other folders of single data sets, and variants.

    Raises:
        FileNotFoundError: `root` does not exist and a data set has no folder of its own.
    """
    if not root.is_dir() and any(name not in options.roots for name in names):
        raise FileNotFoundError(
            f"{root} does not exist: expected the folder of the data sets. Set another folder by "
            "--data, or set benchmark.root."
        )
    with tempfile.TemporaryDirectory(prefix="lifelong-reid-doctor-") as scratch:
        reports = {name: _examine(name, root, options, scratch) for name in names}
    return _locate_absent(_resolve_shared_folders(reports, options), root)


def examine_table(root: Path, options: ReadOptions) -> dict[str, Report]:
    """Reads all domains of a table; opens no image.

    Args:
        root: folder of the data sets, where `options.table.file` is not set.
        options: location of the table.

    Returns:
        Reports by domain; a single report of the whole table if it cannot be read.

    Raises:
        FileNotFoundError: the table does not exist.
    """
    try:
        names = [name for names in table_domains(root, options) for name in names]
    except ValueError as error:
        facts = dataset_facts(TABLE)
        return {TABLE: Report(TABLE, facts.title, "broken", faults=_messages(error))}
    reports = {name: _examine(f"{TABLE}:{name}", root, options, options.derived) for name in names}
    if len({report.faults for report in reports.values()}) == 1 and _are_broken(reports.values()):
        return {TABLE: replace(next(iter(reports.values())), name=TABLE)}
    note = (
        "One domain: methods learn it alone and forget nothing. Name several domains in column "
        "domain, or combine this one with other data sets by benchmark.name=custom."
    )
    notes = (note,) if len(names) == 1 else ()
    return {
        name: replace(report, name=name, notes=(*notes, *report.notes))
        for name, report in reports.items()
    }


def _are_broken(reports: Iterable[Report]) -> bool:
    return all(report.status == "broken" for report in reports)


def _examine(name: str, root: Path, options: ReadOptions, scratch: str) -> Report:
    facts = dataset_facts(name)
    try:
        place = find_dataset(name, root, options)
    except FileNotFoundError as error:
        return _not_found(name, facts, str(error), root, options)
    except OSError as error:
        return Report(name, facts.title, "broken", faults=_messages(error))
    report = _located(place, options)
    # Read images extracted by an earlier run; otherwise write generated splits to a scratch folder.
    is_derived = (Path(options.derived).expanduser() / name).is_dir()
    read_options = options if is_derived else options.model_copy(update={"derived": scratch})
    try:
        with _collect_warnings() as messages:
            raw = read_located(replace(place, may_extract=False), root, read_options)
    except NotExtractedError:
        return _not_extracted(report, options)
    except Exception as error:  # a bug in one reader must not stop the others
        return replace(report, status="broken", faults=_messages(error))
    return _with_records(replace(report, notes=(*report.notes, *messages)), raw)


def _not_found(
    name: str, facts: DatasetFacts, error: str, root: Path, options: ReadOptions
) -> Report:
    """Reports "broken" if a part of the data set was found, otherwise "missing"."""
    configured = options.roots.get(name)
    start = Path(configured).expanduser() if configured else root
    needs = {need for layout in facts.layouts for need in layout.needs}
    for folder in (start, *(start / below for below in facts.folders)):
        if any((folder / need).exists() for need in needs):
            return Report(name, facts.title, "broken", folder=folder, faults=(error,))
    if configured:
        return Report(name, facts.title, "missing", faults=(error,))
    expected = " or ".join(", ".join(layout.needs) for layout in facts.layouts)
    fault = (
        f"{facts.title}: not found. Expected {expected} under {root / facts.folders[0]}, or under "
        f"the folder benchmark.roots.{name}."
    )
    return Report(name, facts.title, "missing", faults=(fault,), is_absent=True)


def _located(place: LocatedDataset, options: ReadOptions) -> Report:
    """Report of a located data set before it is read."""
    facts, expected, notes = place.facts, place.layout.expected, list[str]()
    if facts.withdrawn:
        consent = "" if options.accept_withdrawn else "; runs need benchmark.accept_withdrawn=true"
        notes.append(f"{facts.title} {facts.withdrawn}{consent}.")
    if expected and (changed := _changed_variants(place.name, options)):
        expected = {}
        notes.append(
            f"Counts are not compared with the literature, which has another {changed[0]}."
        )
    return Report(
        place.name, facts.title, "ok", place.folder, place.layout.variant,
        expected=expected, notes=tuple(notes),
    )  # fmt: skip


def _not_extracted(report: Report, options: ReadOptions) -> Report:
    note = (
        f"Found as archives: the first run extracts images into {options.derived} "
        "(benchmark.derived). Until then nothing else can be checked."
    )
    return replace(report, expected={}, notes=(*report.notes, note))


def _changed_variants(name: str, options: ReadOptions) -> list[str]:
    """Options of this data set (`<name>_...`) that differ from their defaults."""
    return [
        f"benchmark.{key}"
        for key, about in ReadOptions.model_fields.items()
        if key.startswith(f"{name}_") and getattr(options, key) != about.get_default()
    ]


def _messages(error: Exception) -> tuple[str, ...]:
    """Lines of the message of an error; the type is added unless a reader raised it."""
    has_message = type(error) in (ValueError, TableError, FileNotFoundError) and str(error)
    message = str(error) if has_message else f"cannot be read: {type(error).__name__}: {error}"
    return tuple(message.splitlines())


class _WarningCollector(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextmanager
def _collect_warnings() -> Iterator[list[str]]:
    """Collects the warnings of readers for the report instead of printing them."""
    logger, collector = logging.getLogger("tasks"), _WarningCollector()
    logger.addHandler(collector)
    try:
        yield collector.messages
    finally:
        logger.removeHandler(collector)


def _with_records(report: Report, raw: RawDomain) -> Report:
    parts = parts_of(raw)
    faults, notes = faults_and_notes(raw, report.expected)
    paths = dict.fromkeys(record.image_path for records in parts.values() for record in records)
    return replace(
        report,
        status="warning" if faults else "ok",
        splits={part: counts_of(records) for part, records in parts.items()},
        faults=tuple(faults),
        notes=(*report.notes, *notes),
        image_paths=tuple(paths),
    )


def _resolve_shared_folders(
    reports: Mapping[str, Report], options: ReadOptions
) -> dict[str, Report]:
    """Resolves folders that were located for several data sets.

    Some data sets have the same layout, so a root that is one of them matches all of them. The data
    set with the best status is kept; several with equal status get a warning.
    """
    sharing: defaultdict[Path, list[Report]] = defaultdict(list)
    for report in reports.values():
        if report.folder is not None and report.name not in options.roots:
            sharing[report.folder].append(report)
    resolved = dict(reports)
    for folder, claims in sharing.items():
        best = next(
            (
                [report for report in claims if report.status == status]
                for status in ("ok", "warning")
                if any(report.status == status for report in claims)
            ),
            [],
        )
        names = " or ".join(report.title for report in best)
        for report in claims if best else ():
            if report not in best:
                resolved[report.name] = Report(
                    report.name, report.title, "missing", is_absent=True,
                    faults=(f"{report.title}: not found; {folder} is {names}.",),
                )  # fmt: skip
            elif len(best) > 1:
                fault = (
                    f"{folder} may be {names}, which have the same layout. Set its parent folder "
                    "by --data, or name the data set by --dataset."
                )
                faults = (*report.faults, fault)
                resolved[report.name] = replace(report, status="warning", faults=faults)
    return resolved


def _locate_absent(reports: Mapping[str, Report], root: Path) -> dict[str, Report]:
    """Adds the locations of absent data sets that are deeper below the root.

    Layouts are not unique. Excluded are folders of located data sets, and folders that have the
    name of another absent data set or lie below such a folder.
    """
    taken = {report.folder for report in reports.values() if report.folder is not None}
    deeper = {
        name: folder
        for name, report in reports.items()
        if report.is_absent and (folder := find_deeper(dataset_facts(name), root, taken))
    }
    named = {name: folder for name, folder in deeper.items() if _is_named(name, folder)}
    located = dict(reports)
    for name, folder in deeper.items():
        others = [other for other in named if other != name]
        if name in named or not any(named[other] in (folder, *folder.parents) for other in others):
            title = reports[name].title
            fault = f"{title}: found in a deeper folder: set benchmark.roots.{name}={folder}"
            located[name] = replace(reports[name], faults=(fault,), is_absent=False)
    return located


def _is_named(name: str, folder: Path) -> bool:
    usual_names = {Path(below).name.casefold() for below in dataset_facts(name).folders}
    return folder.name.casefold() in usual_names


def examine_images(
    reports: Mapping[str, Report], on_opened: Callable[[int], None] = lambda _: None
) -> dict[str, Report]:
    """Decodes every image once, on all cores, and adds the results to the reports.

    Args:
        reports: result of `examine`.
        on_opened: called with the number of files opened since the last call.

    Raises:
        RuntimeError: A process that opens images died.
    """
    reasons = open_images(images_of(reports), on_opened)
    return {name: _with_images(report, reasons) for name, report in reports.items()}


def images_of(reports: Mapping[str, Report]) -> list[str]:
    """Images of all data sets, without duplicates."""
    return list(dict.fromkeys(path for each in reports.values() for path in each.image_paths))


def _with_images(report: Report, reasons: Mapping[str, str]) -> Report:
    unreadable = {path: reasons[path] for path in report.image_paths if path in reasons}
    if not unreadable:
        return replace(report, unreadable=unreadable)
    faults = [
        f"{len(unreadable):,} of {len(report.image_paths):,} images cannot be decoded. "
        "Download them again: runs skip a few (data.max_bad_share) and fail on more."
    ]
    faults += [f"{path} ({reason})" for path, reason in list(unreadable.items())[:NUM_LISTED]]
    if len(unreadable) > NUM_LISTED:
        faults.append(f"and {len(unreadable) - NUM_LISTED:,} more; --json lists them all")
    faults = [*report.faults, *faults]
    return replace(report, status="warning", unreadable=unreadable, faults=tuple(faults))
