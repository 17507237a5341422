"""README and docs/: what they print runs, or its command takes it; links lead somewhere."""

from __future__ import annotations

import importlib
import importlib.util
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_lines import REPOSITORY, check_line
from conftest import N_ITEMS, Tiny, toy_sequences
from conftest import timed_rows as rows_of
from test_registry import forget

from recbole_qbert.cli import GROUPS, main
from recbole_qbert.data.semid import SemanticIDTable, write_semantic_ids
from recbole_qbert.evaluation.ranking import METRICS
from recbole_qbert.tokenizer.quantizers.registry import METHODS

README = REPOSITORY / "README.md"
DOCS = sorted((REPOSITORY / "docs").glob("*.md"))
# The figures of results/ keep the commands that made them; their pages are checked for links alone.
PAGES = [README, REPOSITORY / "CONTRIBUTING.md", *DOCS]
LINKED = [*PAGES, REPOSITORY / "CHANGELOG.md", *sorted((REPOSITORY / "results").glob("*.md"))]
PROGRAMS = ("recbole-qbert", "python", "snakemake", "make", "torchrun")
SETUP = (".", "pip", "export", "ray", "git", "cd", "rm", "uv", "for", "done", ".venv/bin/pip")
SETUP += ("curl",)  # tests/commands/test_serve.py runs these
FIRST_ITEM = 50  # tokens of the toy items in the examples are those of ml-100k: 50, 51, ...


def blocks(path: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in one of the languages."""
    found = re.findall(
        r"^ *```(\w*)[^\n]*\n(.*?)^ *```$", path.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    return [text for language, text in found if language in languages]


def lines_of(block: str) -> Iterator[str]:
    """The commands of a shell block."""
    for line in block.replace("\\\n", " ").splitlines():
        if line.strip() and not line.strip().startswith("#"):
            yield line.strip()


def words_of(line: str) -> list[str]:
    """A command without comment, variables before it, and what follows a pipe."""
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)
    return words


def commands(path: Path) -> list[list[str]]:
    """Every command that a page prints, in its blocks and as code in its text."""
    text = re.sub(r"^ *```.*?^ *```$", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    spans = re.findall(rf"`((?:{'|'.join(PROGRAMS)}) [^`]+)`", text)
    printed = [words_of(line) for block in blocks(path, "sh") for line in lines_of(block)]
    inline = [words_of(re.sub(r"\s+", " ", span)) for span in spans]
    return [*printed, *inline]


def id_of(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


@pytest.fixture(autouse=True)
def in_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


# The text ----------------------------------------------------------------------------------------


def test_readme_is_short() -> None:
    assert README.stat().st_size <= 10 * 1024


@pytest.mark.parametrize("path", LINKED, ids=id_of)
def test_links_lead_to_files(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text("utf-8")):
        file, _, heading = target.partition("#")
        if re.match(r"\w+:", target):
            continue
        place = (path.parent / file).resolve() if file else path
        assert place.exists(), target
        if heading and place.suffix == ".md":
            assert heading in headings(place), target


def headings(path: Path) -> set[str]:
    """Anchors of a page's headings."""
    titles = re.findall(r"^#+ (.*)$", path.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", PAGES, ids=id_of)
def test_names_in_code_exist(path: Path) -> None:
    """Files and modules that the text names."""
    text = path.read_text("utf-8")
    for name in re.findall(r"`((?:recbole_qbert|properties|tests|results|docs)/[\w./-]+)`", text):
        assert (REPOSITORY / name).exists(), name
    for name in re.findall(r"`(recbole_qbert(?:\.\w+)+)`|^::: ([\w.]+)", text, re.MULTILINE):
        resolve(name[0] or name[1])


def resolve(name: str) -> object:
    """A module, or what is in one."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:n]))
        except ModuleNotFoundError:
            continue
        for part in parts[n:]:
            found = getattr(found, part)
        return found
    raise AssertionError(name)


def test_every_page_is_in_the_menu() -> None:
    menu = (REPOSITORY / "mkdocs.yml").read_text("utf-8")
    for path in DOCS:
        assert re.search(rf"\b{re.escape(path.name)}\b", menu), path.name


def test_the_settings_page_is_up_to_date() -> None:
    script = runpy.run_path(str(REPOSITORY / "docs" / "make_settings.py"))
    page = (REPOSITORY / "docs" / "settings.md").read_text("utf-8")
    assert page == script["settings_page"](), "run: python docs/make_settings.py"
    for path in (REPOSITORY / "properties" / "model").glob("*.yaml"):
        assert f"Source: `properties/model/{path.name}`" in page


# Commands ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES, ids=id_of)
def test_commands_are_taken(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each printed command is one that its command's own parser takes."""
    for name in ("properties", "results", "dataset_scripts"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    monkeypatch.chdir(tmp_path)
    Path("dataset/X").mkdir(parents=True)  # what split.py writes
    Path("dataset/X/X.split.yaml").write_text("benchmark_filename: [train, valid, test]\n")
    for block in blocks(path, "yaml"):  # settings that a page's commands name
        if match := re.match(r"# ([\w./]+\.yaml)\b", block):
            Path(match[1]).write_text(block)
    for words in commands(path):
        if words[0] in SETUP:
            continue
        n_words = 3 if words[1:2] and words[1] in GROUPS else 2
        if (
            words[:1] == ["recbole-qbert"]
            and len(words) <= n_words
            and words[1] not in ("doctor", "demo")
            and not words[-1].startswith("-")
        ):
            words = [*words, "--help"]  # the command's name in a sentence
        try:
            check_line(words)
        except (Exception, SystemExit) as error:
            raise AssertionError(f"{shlex.join(words)}: {error}") from error


@pytest.fixture
def films(tiny: Tiny) -> Tiny:
    """The toy data as dataset/ml-100k, with columns and tokens as RecBole's sample has them."""
    folder = tiny.root / "dataset" / "ml-100k"
    folder.mkdir(parents=True)
    token = {f"i{number}": str(FIRST_ITEM + number) for number in range(N_ITEMS)}
    rows = [(user, token[item], time) for user, item, time in rows_of(toy_sequences())]
    lines = [f"{user}\t{item}\t{time!r}" for user, item, time in rows]
    header = "user_id:token\titem_id:token\ttimestamp:float"
    (folder / "ml-100k.inter").write_text("\n".join([header, *lines, ""]))
    films = [
        f"{item}\tFilm of {int(item) % 7}\t19{int(item)}\tkind{int(item) % 3}"
        for item in token.values()
    ]
    header = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"
    (folder / "ml-100k.item").write_text("\n".join([header, *films, ""]))
    table = SemanticIDTable(tuple(token.values()), tiny.table.codes, tiny.table.codebook_sizes)
    write_semantic_ids(folder / "ml-100k.semid", table, {"made_by": "test_docs.py"})
    return tiny


def run_lines(block: str, left_out: str, *more: str) -> None:
    """Run the `recbole-qbert` and script lines of a block, trainings for an epoch alone."""
    for line in lines_of(block):
        program, *rest = words_of(line)
        if program == "recbole-qbert" and not re.match(left_out, " ".join(rest)):
            status = main([*rest, *(more if rest[0] == "run" else ())])
            assert status == 0, line
        elif program == "python":
            script = REPOSITORY / rest[0]
            subprocess.run([sys.executable, script, *rest[1:]], check=True, capture_output=True)


@pytest.mark.slow
def test_the_quick_start_of_the_readme_runs(films: Tiny) -> None:
    (block,) = (each for each in blocks(README, "sh") if "embed text" in each)
    small = ("--epochs=1", "--MAX_ITEM_LIST_LENGTH=8", "--show_progress=False")
    run_lines(block, "prepare sample|report", *small)
    assert Path("dataset/ml-100k/ml-100k.text.npz").is_file()


def test_your_own_table_runs(films: Tiny) -> None:
    """The three commands of the page, on the toy data as CSV."""
    rows = (
        line.split("\t")
        for line in Path("dataset/ml-100k/ml-100k.inter").read_text().split("\n")[1:-1]
    )
    events = [
        f"{user},{item},2024-01-{1 + place // 30:02}T{place % 24:02}:00:00"
        for place, (user, item, _) in enumerate(rows)
    ]
    Path("events.csv").write_text("\n".join(["customer,article,when", *events, ""]))
    Path("articles.csv").write_text(
        "id,name\n" + "".join(f"{FIRST_ITEM + n},Thing {n}\n" for n in range(N_ITEMS))
    )
    block = next(
        each for each in blocks(REPOSITORY / "docs/quickstart.md", "sh") if "prepare table" in each
    )
    run_lines(block, "never", "--epochs=1", "--show_progress=False")
    assert Path("dataset/Shop/Shop.semid").is_file() and Path("saved/results.jsonl").is_file()


# Python ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [page for page in PAGES if blocks(page, "python")], ids=id_of)
def test_python_blocks_run(films: Tiny, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, as one program."""
    import recbole.evaluator.register as recbole_metrics

    ours = {"rbp": METRICS, "bins": METHODS}
    recboles = ("metric_types", "metric_information", "metrics_dict")
    for name, table in [
        *ours.items(),
        *(("rbp", getattr(recbole_metrics, each)) for each in recboles),
    ]:
        monkeypatch.setitem(table, name, None)  # what the page adds goes again
        del table[name]
    program = Path(f"page_{path.stem.lower()}.py")  # a file, so that classes in it have a source
    program.write_text("\n\n".join(blocks(path, "python")), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(program.stem, program.resolve())
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, program.stem, module)
    try:
        spec.loader.exec_module(module)
    finally:
        forget("LearnedPopularity")
