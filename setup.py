"""The package of the plugin: `pip install -e .` works wherever fairseq is installed already."""

from setuptools import Extension, find_packages, setup

COMMANDS = (
    "train",
    "translate",
    "evaluate",
    "average",
    "upcycle",
    "export",
    "compare",
    "plan",
    "report",
    "prepare",
    "prepare-numbers",
    "prepare-multi30k",
    "prepare-debian",
    "prepare-gnome",
    "prepare-opus100",
    "prepare-wmt-en-fr",
)

# Plain C++ without torch's headers: it compiles in seconds. Optional, because the same algorithm
# in torch takes its place where there is no compiler.
KERNEL = Extension(
    "user_dir.fast_moe.routing._balanced_assignment",
    sources=["user_dir/fast_moe/routing/csrc/balanced_assignment.cpp"],
    extra_compile_args=["-O3", "-std=c++17"],
    language="c++",
    optional=True,
)

setup(
    name="scomoe",
    version="0.1.0",
    description="Sparse mixture-of-experts machine translation as a plugin for fairseq",
    author="the SCoMoE for fairseq authors",
    license="MIT",
    packages=find_packages(include=["user_dir", "user_dir.*"]),
    python_requires=">=3.11,<3.13",
    # fairseq is missing on purpose: pip would fetch the torchaudio that its metadata asks for,
    # and another torch with it, although translation needs neither (docs/installation.md).
    install_requires=[
        "num2words",
        "numpy",
        "sacrebleu>=2.4",
        "sacremoses",
        "sentencepiece",
        "torch>=2.6",
        "tqdm",
    ],
    # What scomoe-prepare reads with: Parquet, and files that zstd has compressed; what the page of
    # scomoe-report is drawn with; what scomoe-export writes with.
    extras_require={
        "ctranslate2": ["ctranslate2>=4.6"],
        "hf": ["protobuf", "safetensors", "tokenizers"],
        "parquet": ["pyarrow"],
        "report": ["jinja2", "vl-convert-python>=1.9"],
        "zstd": ["backports.zstd"],
    },
    package_data={
        "user_dir.planning": ["clusters/*", "templates/*"],
        "user_dir.reporting": ["templates/*"],
    },
    ext_modules=[KERNEL],
    entry_points={
        "console_scripts": [
            f"scomoe-{name}=user_dir.cli.{name.replace('-', '_')}:main" for name in COMMANDS
        ]
    },
)
