"""Medians of the rounds, as Markdown between the markers of docs/performance.md and as JSON."""

import json
import os
import platform
import re
import shutil
import statistics
import subprocess

from measure import PROTOCOLS, WORKLOADS
from servers import postgres_bin
from several import CELLS, SCATTER

# Sections of the page: what goes through any proxy, and what only this one does.
SECTIONS = {name: (f"<!-- {name}:begin -->", f"<!-- {name}:end -->") for name in ("bench", "several")}


def first_line(command):
    """First line of a program's output."""
    done = subprocess.run(command, capture_output=True, text=True)
    return (done.stdout or done.stderr).splitlines()[0].strip() if (done.stdout or done.stderr) else "?"


def environment(root, options):
    """What the figures depend on."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        model = re.search(r"model name\s*: (.*)", file.read())
    commit = subprocess.run(["git", "-C", root, "describe", "--always", "--dirty"], capture_output=True, text=True)
    versions = [first_line([f"{postgres_bin()}/postgres", "--version"])]
    for name, flag in (("pgbouncer", "--version"), ("haproxy", "-v")):
        if shutil.which(name):
            versions.append(first_line([name, flag]).split(" - ")[0].split("-")[0])
    return {
        "cpu": f"{os.cpu_count()} x {model.group(1) if model else platform.machine()}",
        "kernel": f"{platform.system()} {platform.release().split('-')[0]}",
        "versions": versions,
        "commit": commit.stdout.strip() or "unknown",
        "rounds": options.rounds,
        "seconds": options.seconds,
        "turns": options.turns,
    }


def median_of(rounds):
    """Median per figure; an error in any round is the result."""
    errors = [figures["error"] for figures in rounds if "error" in figures]
    if errors:
        return {"error": errors[0]}
    keys = ["tps", "p50_ms", "p99_ms", "proxy_us", "postgres_us"]
    return {
        key: None if rounds[0][key] is None else statistics.median(figures[key] for figures in rounds) for key in keys
    }


def table(header, rows):
    """A Markdown table, numbers to the right."""
    lines = ["| " + " | ".join(header) + " |", "|---|---:" + "|---" * (len(header) - 2) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def speed_cell(figures):
    """tps, p50 and p99 of one cell."""
    if figures is None:
        return "–"
    if "error" in figures:
        return "fails"
    return f"{figures['tps']:,.0f} · {figures['p50_ms']:.2f} / {figures['p99_ms']:.2f}"


def cpu_cell(figures):
    """CPU of the proxy, of PostgreSQL, and their sum."""
    if figures is None:
        return "–"
    if "error" in figures:
        return "fails"
    if figures["proxy_us"] is None:
        return f"0 + {figures['postgres_us']:.0f} = {figures['postgres_us']:.0f}"
    total = figures["proxy_us"] + figures["postgres_us"]
    return f"{figures['proxy_us']:.0f} + {figures['postgres_us']:.0f} = {total:.0f}"


def measured(about, how):
    """The first line of a section."""
    return (f"Measured on {about['cpu']}, {about['kernel']}; {'; '.join(about['versions'])}; Gavel at `{about['commit']}`. "
            f"Medians of {how}.")


def markdown(about, cells, memory, titles):
    """The text of the first section. `cells`: {(workload, protocol, clients): {target: median}}."""
    out = [measured(about, f"{about['rounds']} interleaved rounds of {about['seconds']} s")]
    targets = [name for name in titles if any(name in found for found in cells.values())]
    header = ["protocol", "clients", *(titles[name] for name in targets)]
    for workload, (title, _, _) in WORKLOADS.items():
        chosen = [cell for cell in cells if cell[0] == workload]
        chosen.sort(key=lambda cell: (PROTOCOLS.index(cell[1]), cell[2]))
        if not chosen:
            continue
        for what, render in (("transactions per second · p50 / p99 in ms", speed_cell),
                             ("CPU µs per transaction: proxy + PostgreSQL = together", cpu_cell)):
            rows = [[cell[1], str(cell[2]), *(render(cells[cell].get(name)) for name in targets)] for cell in chosen]
            out.append(f"### {title[0].upper()}{title[1:]}: {what}\n\n{table(header, rows)}")
    if memory:
        rows = [
            [titles[name] + (", TLS" if tls else ""), f"{clients:,}",
             *(f"{figures[step]:.1f}" if "error" not in figures else "fails" for step in ("login", "query", "row_100kb"))]
            for (name, clients, tls), figures in memory.items()
        ]
        header = ["proxy", "idle clients", "after login", "after one query", "after a row of 100 kB"]
        out.append(f"### Memory per idle client, KiB\n\n{table(header, rows)}")
    return "\n\n".join(out)


def milliseconds(value):
    """Three digits that say something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def several_markdown(about, compared):
    """The text of the second section: what statements over several shards take, and by what factor that is more than what they are
    compared with."""
    out, rows = [measured(about, f"{about['turns']} turns")], []
    for name in (name for name in SCATTER if name in compared):
        found = compared[name]
        alone, at_once, gavel = (found[key] for key in ("alone", "at_once", "gavel"))
        shares = [found[key]["ms"] for key in ("share_alone", "share_gavel") if key in found]
        rows.append([
            SCATTER[name][0],
            *([*map(milliseconds, shares), f"{shares[1] / shares[0]:.2f}"] if shares else ["–", "–", "–"]),
            *(milliseconds(figures["ms"]) for figures in (alone, at_once, gavel)), f"{gavel['ms'] / at_once['ms']:.2f}",
            *map(milliseconds, (alone["servers_ms"], gavel["servers_ms"], gavel["proxy_ms"])),
        ])
    if rows:
        header = ["rows in all", "**a processor each:** slowest shard alone", "Gavel", "ratio",
                  "**two processors:** slowest shard alone", "all shards at once", "Gavel", "ratio to all at once",
                  "**CPU:** slowest shard", "all shards", "Gavel"]
        out.append(f"### SELECT over four shards: ms\n\n{table(header, rows)}")
    rows = []
    for name, found in compared.items():
        if name in SCATTER:
            continue
        direct, gavel = found["direct"], found["gavel"]
        spent = gavel["proxy_ms"] + gavel["servers_ms"]
        rows.append([
            CELLS[name][0], milliseconds(direct["ms"]), milliseconds(gavel["ms"]), f"{gavel['ms'] / direct['ms']:.2f}",
            milliseconds(direct["servers_ms"]), f"{milliseconds(gavel['proxy_ms'])} + {milliseconds(gavel['servers_ms'])}",
            f"{spent / direct['servers_ms']:.2f}",
        ])
    if rows:
        header = ["statement", "one PostgreSQL", "Gavel, 4 shards", "ratio", "CPU of one PostgreSQL", "CPU of Gavel + shards", "ratio"]
        out.append(f"### Writes over four shards, and rows gathered in one place: ms\n\n{table(header, rows)}")
    return "\n\n".join(out)


def write_docs(path, section, text):
    """Replaces what stands between the markers of a section."""
    begin, end = SECTIONS[section]
    with open(path, encoding="utf-8") as file:
        page = file.read()
    before, rest = page.split(begin, 1)
    after = rest.split(end, 1)[1]
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"{before}{begin}\n{text}\n{end}{after}")


def write_json(path, about, raw, memory, compared):
    """Every round of every cell, for later comparison."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    record = {
        "about": about,
        "cells": [
            {"workload": cell[0], "protocol": cell[1], "clients": cell[2], "target": target, "rounds": rounds}
            for (cell, target), rounds in raw.items()
        ],
        "memory": [
            {"target": name, "clients": clients, "tls": tls, "kib": kib} for (name, clients, tls), kib in memory.items()
        ],
        "several": compared,
    }
    with open(path, "w", encoding="utf-8") as file:
        json.dump(record, file, indent=1)
