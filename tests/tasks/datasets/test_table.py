"""Tables: ids, paths, cells, domains, cameras, and the round trip of a synthetic benchmark."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.benchmarks import BenchmarkConfig, load_benchmark, read_domains, seen_and_unseen
from tasks.dataset_files import ReadOptions
from tasks.datasets._table_cells import TableError
from tasks.datasets.synthetic import SyntheticConfig
from tasks.datasets.table import numbered
from tasks.protocol.lock_differences import lock_differences
from tasks.reading import read_dataset
from tasks.schema import Benchmark, RawDomain, Record, Split
from tasks.table_export import template_rows, write_table, write_template
from tests.tasks.datasets.miniatures.table import Rows, paint_rows, shop_rows, write_csv

SYNTHETIC = SyntheticConfig(
    num_seen_domains=2,
    num_unseen_domains=1,
    num_train_identities=4,
    num_unseen_validation_identities=2,
    num_test_identities=2,
    num_cameras=2,
    height=16,
    width=8,
    supersampling=1,
)


def options_for(file: Path, **table: object) -> ReadOptions:
    return ReadOptions.model_validate({"table": {"file": str(file), **table}})


def read(file: Path, name: str = "table", **table: object) -> RawDomain:
    return read_dataset(name, file.parent, options_for(file, **table))


def config_for(file: Path, **fields: object) -> BenchmarkConfig:
    values = {"name": "table", "table": {"file": str(file)}, "num_validation_identities": 1}
    return BenchmarkConfig.model_validate({**values, **fields})


def load(config: BenchmarkConfig) -> Benchmark:
    return load_benchmark(config, image_height=16, image_width=8)


def shop(folder: Path, rows: Rows | None = None, name: str = "shop.csv") -> Path:
    rows = shop_rows() if rows is None else rows
    paint_rows(folder, rows)
    write_csv(folder / name, rows)
    return folder / name


def with_domains(*names: str) -> Rows:
    return [
        {**row, "domain": name, "image_path": f"{name}/{row['image_path']}"}
        for name in names
        for row in shop_rows()
    ]


def names_of(records: Sequence[Record]) -> list[str]:
    return [Path(record.image_path).name for record in records]


def without_parts(split: Split) -> Split:
    """Descriptions of synthetic images are attached to training images alone."""
    query, gallery = (
        tuple(replace(record, parts=()) for record in records)
        for records in (split.query, split.gallery)
    )
    return replace(split, query=query, gallery=gallery)


# ---- ids


def test_natural_order_of_texts() -> None:
    assert numbered(["p10", "p9", "7", "007", "anna"]) == {
        "007": 0, "7": 1, "anna": 2, "p9": 3, "p10": 4,
    }  # fmt: skip


def test_numbers_are_kept() -> None:
    assert numbered(["10", "9", "0"]) == {"0": 0, "9": 9, "10": 10}
    assert numbered(["9223372036854775808", "5"]) == {"5": 0, "9223372036854775808": 1}


@given(st.sets(st.text("0123456789ab. ", max_size=6), max_size=12), st.randoms())
def test_numbers_are_distinct_and_do_not_depend_on_the_order(texts: set[str], draw) -> None:
    listed = sorted(texts)
    draw.shuffle(listed)
    numbers = numbered(listed)
    assert len(set(numbers.values())) == len(texts)
    assert numbers == numbered(texts)


def test_leading_zeros_make_another_person(tmp_path: Path) -> None:
    raw = read(shop(tmp_path))
    assert len({record.person_id for record in raw.train}) == 4
    assert raw.facts["person_ids"] == "texts, numbered in natural order"


def test_same_id_in_two_domains_is_two_people(tmp_path: Path) -> None:
    file = shop(tmp_path, with_domains("shop", "mall"))
    benchmark = load(config_for(file))
    assert [domain.num_persons for domain in benchmark.seen] == [3, 3]
    joint = benchmark.for_course("joint").steps[0]
    assert joint.num_persons == 6


# ---- cells and paths


def test_order_of_rows_is_kept(tmp_path: Path) -> None:
    rows = shop_rows()
    raw = read(shop(tmp_path, rows[::-1]))
    expected = [Path(row["image_path"]).name for row in rows[::-1] if row["split"] == "train"]
    assert names_of(raw.train) == expected


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_separators_and_byte_order_mark(delimiter: str, encoding: str, tmp_path: Path) -> None:
    rows = [{**row, "caption": 'A "red" coat;\nlong, warm\t.'} for row in shop_rows()]
    paint_rows(tmp_path, rows)
    file = tmp_path / "t.csv"
    write_csv(file, rows, delimiter)
    text = file.read_text("utf-8").replace("\n", "\r\n").replace("\r\r\n", "\r\n")
    file.write_bytes(text.encode(encoding))
    assert {record.caption for record in read(file).train} == {'A "red" coat; long, warm .'}


def test_separator_declared_by_excel(tmp_path: Path) -> None:
    file = shop(tmp_path)
    text = file.read_text()
    file.write_text("sep=|\n" + text.replace(",", "|"))
    assert len(read(file).train) == 8


def test_line_numbers_count_lines_inside_cells(tmp_path: Path) -> None:
    rows = [{**row, "caption": "two\nlines"} for row in shop_rows()]
    rows[2]["split"] = "trian"
    with pytest.raises(TableError, match="line 6: expected the split"):
        read(shop(tmp_path, rows))


def test_synonyms_and_other_columns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = {"image_path": "File Path", "person_id": "PID", "camera_id": "CamID", "split": "Subset"}
    rows = [
        {**{names[key]: value for key, value in row.items()}, "age": "7"} for row in shop_rows()
    ]
    paint_rows(tmp_path, shop_rows())
    write_csv(tmp_path / "t.csv", rows)
    with caplog.at_level(logging.WARNING):
        assert len(read(tmp_path / "t.csv").train) == 8
    assert "ignored the columns 'age'" in caplog.text


ODD_NAMES = [
    "100% [red]x[/red].png",
    "a:smile:b.png",
    "..hidden.png",
    "ü é.png",
    "a#b?.png",
    "'.png",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_are_literal(name: str, tmp_path: Path) -> None:
    rows = shop_rows()
    rows[0]["image_path"] = name
    assert read(shop(tmp_path, rows)).train[0].image_path == str(tmp_path / name)


def test_backslashes_dots_and_absolute_paths(tmp_path: Path) -> None:
    rows = shop_rows()
    paint_rows(tmp_path / "data", rows)
    rows[0]["image_path"] = rows[0]["image_path"].replace("/", "\\")
    rows[1]["image_path"] = f"../lists/../data/{rows[1]['image_path']}"
    rows[2]["image_path"] = str(tmp_path / "data" / rows[2]["image_path"])
    rows[3:] = [{**row, "image_path": f"../data/{row['image_path']}"} for row in rows[3:]]
    rows[0]["image_path"] = f"..\\data\\{rows[0]['image_path']}"
    write_csv(tmp_path / "lists" / "t.csv", rows)
    raw = read(tmp_path / "lists" / "t.csv")
    assert raw.folder == tmp_path / "data" / "images"
    assert all(Path(record.image_path).is_file() for record in raw.train)


def test_two_spellings_of_a_path_are_one_image(tmp_path: Path) -> None:
    rows = shop_rows()
    rows.append({**rows[0], "image_path": f"./images/../{rows[0]['image_path']}"})
    with pytest.raises(TableError, match="again after line 2"):
        read(shop(tmp_path, rows))


def test_folder_of_relative_paths(tmp_path: Path) -> None:
    paint_rows(tmp_path / "pictures", shop_rows())
    write_csv(tmp_path / "t.csv", shop_rows())
    assert len(read(tmp_path / "t.csv", images=str(tmp_path / "pictures")).train) == 8


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    rows = with_domains("shop", "mall")
    file = shop(tmp_path, rows)
    (tmp_path / rows[0]["image_path"]).unlink()
    for row in rows[:12]:
        row["camera_id"] = "1"
    rows[13]["person_id"] = "x9"
    write_csv(file, rows)
    with pytest.raises(TableError) as caught:
        read(file, "table:mall")
    assert [line.partition(": expected ")[2][:20] for line in str(caught.value).splitlines()] == [
        "paths of image files", "test images by at le", "different people in ",
    ]  # fmt: skip


# ---- domains


def test_domains_are_learned_in_the_order_of_the_file(tmp_path: Path) -> None:
    rows = with_domains("street", "shop", "mall")
    rows = [row for row in rows if row["domain"] != "shop" or row["split"] != "train"]
    file = shop(tmp_path, rows)
    assert seen_and_unseen(config_for(file)) == (("street", "mall"), ("shop",))
    assert seen_and_unseen(config_for(file, unseen=["mall"])) == (("street",), ("mall",))
    assert seen_and_unseen(config_for(file, order=["mall"])) == (("mall",), ("shop",))
    benchmark = load(config_for(file))
    assert [domain.name for domain in benchmark.domains] == ["street", "mall", "shop"]


def test_line_ends_of_old_macs_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "shop.csv"
    file.write_bytes(b"image_path,person_id,camera_id,split\ra.png,1,1,train\r")
    with pytest.raises(TableError, match=r"shop\.csv"):
        seen_and_unseen(config_for(file))


def test_unknown_domain(tmp_path: Path) -> None:
    file = shop(tmp_path, with_domains("shop", "mall"))
    with pytest.raises(TableError, match=r"no domain 'shp'; did you mean shop\?; .*has shop, mall"):
        load(config_for(file, order=["shp"]))


def test_order_with_built_in_data_sets(tmp_path: Path) -> None:
    from tests.tasks.datasets.miniatures.market1501 import build_market_layout

    build_market_layout(tmp_path / "market1501")
    file = shop(tmp_path, with_domains("shop", "mall"))
    order = ["market1501", "table:mall"]
    config = config_for(file, name="custom", order=order, unseen=["table:shop"], root=str(tmp_path))
    benchmark = load(config)
    assert [domain.name for domain in benchmark.domains] == [
        "market1501",
        "table:mall",
        "table:shop",
    ]
    assert benchmark.lock["domains"]["table:mall"]["variant"] == "table"


def test_missing_table(tmp_path: Path) -> None:
    shop(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"shp\.csv: .* did you mean shop\.csv\?; set bench"
    ):
        load(config_for(tmp_path / "shp.csv"))


def test_styles_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="tables do not have; remove style"):
        config_for(tmp_path / "t.csv", style="kmeans")


# ---- cameras and texts


def test_without_the_camera_filter_all_images_are_ranked(tmp_path: Path) -> None:
    file = shop(tmp_path, [{**row, "camera_id": "1"} for row in shop_rows()])
    with pytest.raises(TableError, match="got only '1'"):
        load(config_for(file))
    table = {"file": str(file), "camera_filter": False}
    (domain,) = load(config_for(file, table=table)).seen
    for split in (domain.test, domain.validation):
        queried = {record.camera_id for record in split.query}
        assert queried.isdisjoint(record.camera_id for record in split.gallery)


def test_texts(tmp_path: Path) -> None:
    texts = {"head": "A hat.", "upper": "A coat", "lower": "Jeans.", "foot": "Boots."}
    rows = [{**row, **texts, "identity": "Tall.", "clothing": "Warm."} for row in shop_rows()]
    (domain,) = load(config_for(shop(tmp_path, rows))).seen
    record = domain.train[0]
    assert record.parts == tuple(texts.values())
    assert record.caption == "A hat. A coat. Jeans. Boots."
    assert (record.identity, record.clothing) == ("Tall.", "Warm.")


def test_texts_change_the_lock(tmp_path: Path) -> None:
    def lock(clothing: str) -> Mapping[str, object]:
        rows = [{**row, "clothing": clothing} for row in shop_rows()]
        return load(config_for(shop(tmp_path, rows))).lock

    found = lock_differences({"a": lock("Red."), "b": lock("Blue.")})
    assert [each.paths for each in found] == [("domains.table.facts.texts_sha256",)]


def test_query_without_match_and_single_images(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [row for row in shop_rows() if "anna till" not in row["image_path"]]
    rows = [row for row in rows if row["image_path"] != "images/gallery/x9 till.png"]
    with caplog.at_level(logging.WARNING):
        load(config_for(shop(tmp_path, rows)))
    assert "1 of 4 people to train on have one image (the first is 'anna' in line 2)" in caplog.text
    assert "1 of 2 queries have no image of their person by another camera" in caplog.text
    assert "x9 door.png)" in caplog.text


# ---- template and export


def test_template_is_valid_once_its_images_exist(tmp_path: Path) -> None:
    write_template(tmp_path / "t.csv")
    paint_rows(tmp_path, template_rows())
    assert len(read(tmp_path / "t.csv", "table:shop").test.query) == 1
    assert read(tmp_path / "t.csv", "table:street").test.query_by == "text"
    with pytest.raises(FileExistsError, match="which exists; remove it"):
        write_template(tmp_path / "t.csv")


@pytest.mark.parametrize("name", ["synthetic", "synthetic-t2i"])
def test_round_trip_of_a_synthetic_benchmark(name: str, tmp_path: Path) -> None:
    fields = {"name": name, "root": str(tmp_path / "data"), "synthetic": SYNTHETIC}
    before = BenchmarkConfig.model_validate({**fields, "num_validation_identities": 1})
    seen, unseen = read_domains(before)
    write_table([*seen, *unseen], tmp_path / "demo.csv")
    after = config_for(tmp_path / "demo.csv", unseen=[raw.name for raw in unseen])
    first, second = load(before), load(after)
    for old, new in zip(first.domains, second.domains, strict=True):
        assert (new.name, new.train) == (old.name, old.train)
        assert new.test == old.test
        assert without_parts(new.validation) == without_parts(old.validation)
    # Names of benchmark, layout and generator, and the form of the descriptions differ.
    named = {"benchmark", "generator_version", "synthetic"}
    described = {"variant", "facts", "description_sha256", "dual_sha256"}
    assert {key: first.lock[key] for key in first.lock if key not in (*named, "domains")} == {
        key: second.lock[key] for key in second.lock if key not in (*named, "domains")
    }
    for domain, locked in first.lock["domains"].items():
        other = second.lock["domains"][domain]
        assert {key: locked[key] for key in locked if key not in described} == {
            key: other[key] for key in other if key not in described
        }


def test_export_keeps_relative_paths_where_it_can(tmp_path: Path) -> None:
    raw = replace(read(shop(tmp_path)), name="shop")
    write_table([raw], tmp_path / "again.csv")
    write_table([raw], tmp_path / "elsewhere" / "again.csv")
    with (tmp_path / "again.csv").open() as stream:
        assert next(csv.DictReader(stream))["image_path"] == "images/train/anna door.png"
    again = read(tmp_path / "elsewhere" / "again.csv", "table:shop")
    assert (again.train, again.test) == (raw.train, raw.test)


def test_export_refuses_what_a_table_cannot_hold(tmp_path: Path) -> None:
    raw = read(shop(tmp_path))
    odd = replace(raw.train[0], image_path=str(tmp_path / "a\\b.png"))
    with pytest.raises(ValueError, match="without backslashes"):
        write_table([replace(raw, train=(odd,))], tmp_path / "again.csv")
    with pytest.raises(ValueError, match="expected the name of a CSV file"):
        write_table([raw], tmp_path / "again.xlsx")
