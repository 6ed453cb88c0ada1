"""Small archives in the exact form in which WMT'14 English-French and OPUS-100 are published."""

import gzip
import io
import tarfile
from pathlib import Path

from tests.scripts.corpus_commands import REPOSITORY, SENTENCES

SHARED = REPOSITORY.parent / "shared" / "data" / "multi30k"
EXTRA = {"cs": "červený pes běží v zelené trávě a dva mladí muži ho přitom pozorují tam dnes"}


def lines(language: str, count: int, start: int = 0) -> list[str]:
    """Parallel sentences: Multi30k's where it is there, made-up ones elsewhere."""
    path = SHARED / f"train.{language}.gz"
    if path.exists():
        with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
            text = file.read().split("\n")
        return text[start : start + count]
    words = (SENTENCES | EXTRA)[language].split()
    return [
        " ".join(words[i % 5 : i % 7 + 8] + words[: i % 6]) + f" {i}"
        for i in range(start, start + count)
    ]


def text(some: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in some).encode()


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    """A tar archive, compressed if its name says so; the same bytes every time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    packed = path.suffix in (".tgz", ".gz")
    path.write_bytes(gzip.compress(data.getvalue(), mtime=0) if packed else data.getvalue())
    return path


WMT_SIZES = {"europarl": 120, "commoncrawl": 60, "un": 40, "news-commentary": 30, "giga": 80}
TEST_SIZE = 7
# Every line of Common Crawl that cleaning must drop, and how many of each kind.
BAD = [(b"", b"vide"), (b"half", b"\xe9t\xe9"), (b"\xe2\x80\x8b", b"invisible")]


def write_wmt(folder: Path) -> Path:
    """The archives of fairseq's recipe, with other languages beside, as published."""
    sides = {}
    start = 0
    for name, size in WMT_SIZES.items():
        sides[name] = [text(lines(language, size, start)) for language in ("en", "fr")]
        start += size
    for side in (0, 1):
        sides["commoncrawl"][side] += b"".join(pair[side] + b"\n" for pair in BAD)
    # Far too unequal, and too long: dropped by the limits on pieces.
    sides["un"][0] += b"one\n" + b"word " * 300 + b"\n"
    sides["un"][1] += b"mot " * 60 + b"\n" + b"mot " * 300 + b"\n"
    tgz = "training-parallel-{}.tgz".format
    stem = "training/europarl-v7"
    write_tar(
        folder / tgz("europarl-v7"),
        {
            f"{stem}.de-en.de": b"nicht gefragt\n",
            **_two(f"{stem}.fr-en", sides["europarl"], order=("fr", "en")),
        },
    )
    write_tar(
        folder / tgz("commoncrawl"),
        {
            "commoncrawl.fr-en.annotation": b"x\n",
            **_two("commoncrawl.fr-en", sides["commoncrawl"]),
        },
    )
    write_tar(folder / tgz("un"), _two("un/undoc.2000.fr-en", sides["un"]))
    news = _two("training/news-commentary-v9.fr-en", sides["news-commentary"])
    write_tar(folder / tgz("nc-v9"), news)
    giga = _two("giga-fren.release2.fixed", sides["giga"])
    packed = {f"{name}.gz": gzip.compress(data, mtime=0) for name, data in giga.items()}
    write_tar(folder / "training-giga-fren.tar", packed)
    write_tar(folder / "test-full.tgz", _test_set())
    return folder


def _two(stem: str, sides: list[bytes], order=("en", "fr")) -> dict[str, bytes]:
    both = dict(zip(("en", "fr"), sides, strict=True))
    return {f"{stem}.{language}": both[language] for language in order}


def _test_set() -> dict[str, bytes]:
    members = {}
    for kind, language in (("src", "en"), ("ref", "fr")):
        sentences = [
            f'<seg id="{n}"> L’essai &amp; {line} </seg>\n'
            for n, line in enumerate(lines(language, TEST_SIZE, 1000), start=1)
        ]
        body = "".join(sentences)
        sgm = f'<srcset setid="newstest2014"><doc docid="x">\n<hl>\n{body}</hl>\n</doc></srcset>\n'
        members[f"test-full/newstest2014-fren-{kind}.{language}.sgm"] = sgm.encode()
        members[f"test-full/newstest2014-deen-{kind}.{language}.sgm"] = b"other\n"
    return members


# As in OPUS-100: some pairs have no dev or test sets, and not every name is a plain code.
OPUS_SIZES = {
    ("cs", "en"): (60, 5, 4),
    ("de", "en"): (80, 6, 5),
    ("en", "fr"): (70, 4, 6),
    ("en", "zh_x"): (20, 0, 0),
}


def opus_members() -> dict[str, bytes]:
    """Every file of the tarball by its name."""
    members = {"opus-100-corpus/v1.0/README": b"about\n"}
    for (a, b), sizes in OPUS_SIZES.items():
        start = 0
        for split, size in zip(("train", "dev", "test"), sizes, strict=True):
            for language in (a, b):
                spoken = {"zh_x": "fr"}.get(language, language)
                name = f"opus.{a}-{b}-{split}.{language}"
                if size:
                    members[_opus_name(a, b, name)] = text(lines(spoken, size, start))
            start += size
    # What dev has of de-en, cs-en trains on; a test sentence of de-en too: an overlap.
    english = _opus_name("cs", "en", "opus.cs-en-train.en")
    czech = _opus_name("cs", "en", "opus.cs-en-train.cs")
    members[english] += text([lines("en", 1, 86)[0], "long " * 150, ""])
    members[czech] += text(["přesah", "dlouhý " * 150, "prázdný"])
    name = _opus_name("de", "en", "opus.de-en-train.en").replace("supervised", "zero-shot")
    members[name] = b"not ours\n"
    return members


def _opus_name(a: str, b: str, name: str) -> str:
    return f"opus-100-corpus/v1.0/supervised/{a}-{b}/{name}"


def write_opus(path: Path) -> Path:
    """OPUS-100's tarball."""
    return write_tar(path, opus_members())


def unpack_opus(folder: Path) -> Path:
    """What unpacking the tarball in a folder gives."""
    for name, content in opus_members().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder
