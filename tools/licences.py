#!/usr/bin/env python3
"""Checks licences, bans and sources of every locked package against deny.toml, without a network and without cargo-deny.

It reads the same file as cargo-deny does and understands the part of it that this project uses.
"""

import json
import re
import subprocess
import sys
import tomllib

CRATES_IO = "https://github.com/rust-lang/crates.io-index"


def allows(expression, allowed):
    """Whether an SPDX expression can be met with the allowed licences: OR needs one side, AND both."""
    tokens = re.findall(r"[()]|[^\s()]+", expression.replace("/", " OR "))

    def either():
        value = both()
        while tokens and tokens[0].upper() == "OR":
            tokens.pop(0)
            value = both() or value
        return value

    def both():
        value = one()
        while tokens and tokens[0].upper() == "AND":
            tokens.pop(0)
            value = one() and value
        return value

    def one():
        token = tokens.pop(0)
        if token == "(":
            value = either()
            tokens.pop(0)
            return value
        if tokens and tokens[0].upper() == "WITH":
            token = f"{token} WITH {tokens[1]}"
            del tokens[:2]
        return token in allowed

    return either()


def main():
    with open("deny.toml", "rb") as file:
        rules = tomllib.load(file)
    allowed = set(rules["licenses"]["allow"])
    exceptions = {entry["crate"]: set(entry["allow"]) for entry in rules["licenses"]["exceptions"]}
    banned = {entry["crate"]: entry["reason"] for entry in rules["bans"]["deny"]}
    command = ["cargo", "metadata", "--format-version", "1", "--locked"]
    for target in rules["graph"]["targets"]:
        command += ["--filter-platform", target]
    metadata = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    resolved = {node["id"] for node in metadata["resolve"]["nodes"]}
    packages = [package for package in metadata["packages"] if package["id"] in resolved]
    problems = []
    for package in packages:
        name = f"{package['name']} {package['version']}"
        licence = package["license"]
        if not licence:
            problems.append(f"{name}: no licence is stated")
        elif not allows(licence, allowed | exceptions.get(package["name"], set())):
            problems.append(f"{name}: {licence} is not among the allowed licences")
        if package["name"] in banned:
            problems.append(f"{name}: banned, {banned[package['name']]}")
        if package["source"] not in (None, f"registry+{CRATES_IO}"):
            problems.append(f"{name}: comes from {package['source']}")
    for problem in problems:
        print(problem)
    print(f"{len(packages)} packages, {len(problems)} problems")
    return 1 if problems else 0


sys.exit(main())
