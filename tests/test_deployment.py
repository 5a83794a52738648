"""The files for running fsq as a service fit each other, the documents and the command line."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from datetime import datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from cronsim import CronSim
from dockerfile_parse import DockerfileParser  # type: ignore[import-untyped]
from packaging.requirements import Requirement
from pathspec import GitIgnoreSpec
from typer.testing import CliRunner

from db.session import open_current
from orchestrator.api.metrics import FromDatabase, Metrics
from orchestrator.api.watch import Watch
from orchestrator.cli import app
from tests.command_lines import COMPOSE, SERVICES, Words, check, commands_of, in_shell

CHECKOUT = Path(__file__).resolve().parent.parent
DEPLOYMENT = CHECKOUT / "examples" / "deployment"
NIGHTLY = CHECKOUT / "examples" / "nightly"
DOCKERFILE = CHECKOUT / "Dockerfile"
COMPOSE_FILE = CHECKOUT / "docker-compose.yml"
PAGES = [CHECKOUT / "docs" / "deployment.md", CHECKOUT / "docs" / "nightly.md"]
PAGE, NIGHTLY_PAGE = (page.read_text() for page in PAGES)
UNITS = sorted([*DEPLOYMENT.glob("*.service"), *DEPLOYMENT.glob("*.timer")])
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
INSTRUCTIONS: list[dict[str, str]] = DockerfileParser(path=str(DOCKERFILE), cache_content=True).structure
DASHBOARD: dict[str, Any] = json.loads((DEPLOYMENT / "grafana-dashboard.json").read_text())


def run(*command: str | Path, cwd: Path = CHECKOUT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def tool(name: str) -> str:
    """A program of the test environment, or of the machine; the test is skipped where neither has it."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} on this machine")
    return found


# The command lines


def in_image() -> Iterator[Words]:
    starts = {step["instruction"]: step["value"] for step in INSTRUCTIONS}
    assert json.loads(starts["ENTRYPOINT"])[-1] == "fsq"
    yield json.loads(starts["CMD"])


def in_compose() -> Iterator[Words]:
    for service in SERVICES.values():
        if service["image"] == "fsq":
            yield service["command"]
        check = service.get("healthcheck", {}).get("test", [])
        if check[:2] == ["CMD", "fsq"]:
            yield check[2:]


def in_units() -> Iterator[Words]:
    for unit in UNITS:
        for command in re.findall(r"^Exec\w+=(.*)$", unit.read_text(), re.MULTILINE):
            yield from in_shell(command)


def cron_lines() -> list[str]:
    lines = (DEPLOYMENT / "crontab").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#") and not re.match(r"\w+=", line)]


def in_crontab() -> Iterator[Words]:
    for line in cron_lines():
        yield from in_shell(line.split(maxsplit=5)[5])


SOURCES = {
    "Dockerfile": list(in_image()),
    "docker-compose.yml": list(in_compose()),
    "units": list(in_units()),
    "crontab": list(in_crontab()),
}


@pytest.mark.parametrize(("source", "words"), commands_of(SOURCES))
def test_commands__exist_with_their_options(source: str, words: Words) -> None:
    check(source, words)


def test_commands__are_found_in_every_file() -> None:
    assert all(SOURCES.values()), SOURCES
    assert ["db", "upgrade"] in SOURCES["units"]
    assert ["work", "--drain"] in SOURCES["crontab"]


# The image


def steps(instruction: str) -> list[str]:
    return [step["value"] for step in INSTRUCTIONS if step["instruction"] == instruction]


def enters_the_build(path: str) -> bool:
    ignored = GitIgnoreSpec.from_lines((CHECKOUT / ".dockerignore").read_text().splitlines())
    return not ignored.match_file(path)


def test_dockerfile__linter_finds_nothing() -> None:
    done = run(tool("hadolint"), DOCKERFILE)
    assert (done.returncode, done.stdout) == (0, "")


def test_dockerfile__user_is_a_number_and_not_root() -> None:
    last_stage = INSTRUCTIONS[
        max(i for i, step in enumerate(INSTRUCTIONS) if step["instruction"] == "FROM") :
    ]
    users = [step["value"] for step in last_stage if step["instruction"] == "USER"]
    assert users
    assert int(users[-1]) >= 1000


def test_dockerfile__what_is_copied_exists_and_is_not_ignored() -> None:
    stages = {line.split(" AS ")[1] for line in steps("FROM") if " AS " in line}
    for line in steps("COPY"):
        words = line.split()
        origin = [word.removeprefix("--from=") for word in words if word.startswith("--from=")]
        if origin:
            assert origin[0] in stages
            continue
        for source in words[:-1]:
            assert (CHECKOUT / source).exists()
            assert source == "." or enters_the_build(source)


def test_dockerignore__lets_nothing_else_in() -> None:
    for name in (".env", ".git/config", "demo/fsq.db", "fsq.dump", "db/__pycache__/tables.pyc"):
        assert not enters_the_build(name), name


def test_dockerignore__lets_in_what_the_wheel_is_made_of(tmp_path: Path) -> None:
    for child in CHECKOUT.iterdir():
        if enters_the_build(child.name):
            if child.is_dir():
                shutil.copytree(child, tmp_path / child.name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(child, tmp_path)
    built = run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    wheel = next((tmp_path / "dist").glob("*.whl"))
    assert {"orchestrator/commands/rounds.py", "db/alembic/env.py"} <= set(zipfile.ZipFile(wheel).namelist())


def test_dockerfile__installs_what_the_package_needs() -> None:
    installs = next(step for step in steps("RUN") if "requirements.txt" in step)
    script = re.search(r'python -c "(.*?)"', installs, re.DOTALL)
    assert script
    printed = run(sys.executable, "-c", script[1])
    extras = {
        name: needs
        for name, needs in PROJECT["project"]["optional-dependencies"].items()
        if name not in ("test", "dev")
    }
    wanted = [*PROJECT["project"]["dependencies"], *(need for needs in extras.values() for need in needs)]
    assert {Requirement(line) for line in printed.stdout.splitlines()} == set(map(Requirement, wanted))
    assert f"'.[{','.join(extras)}]'" in PAGE


# Compose


def test_compose__follows_the_specification() -> None:
    done = run(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", COMPOSE_FILE)
    assert done.returncode == 0, done.stdout


def test_compose__services_and_volumes_refer_to_each_other() -> None:
    used = {mount.split(":")[0] for service in SERVICES.values() for mount in service["volumes"]}
    assert used == set(COMPOSE["volumes"])
    for service in SERVICES.values():
        for name, dependency in service.get("depends_on", {}).items():
            if dependency["condition"] == "service_healthy":
                assert SERVICES[name]["healthcheck"]["test"]
            else:
                assert dependency["condition"] == "service_completed_successfully"
                assert "restart" not in SERVICES[name]
    assert all("migrate" in SERVICES[name]["depends_on"] for name in ("api", "worker"))


def test_compose__home_is_the_volume_of_the_image() -> None:
    assert {SERVICES[name]["volumes"][0].split(":")[1] for name in ("migrate", "api", "worker")} == set(
        steps("VOLUME")
    )


def test_compose__gpu_is_reserved_for_the_worker_alone() -> None:
    reserved = {
        name: service["deploy"]["resources"]["reservations"]["devices"]
        for name, service in SERVICES.items()
        if "deploy" in service
    }
    assert reserved == {"worker": [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]}


def test_compose__worker_is_looked_for_under_its_own_name() -> None:
    worker = SERVICES["worker"]
    assert worker["healthcheck"]["test"][-2:] == ["--alive-on", worker["hostname"]]


def test_compose__containers_are_confined() -> None:
    for name, service in SERVICES.items():
        assert service["read_only"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "/tmp" in service["tmpfs"], name  # noqa: S108
        assert set(service["logging"]["options"]) == {"max-size", "max-file"}, name


def test_compose__publishes_on_loopback_alone() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"api": ["${FSQ_PUBLISH:-127.0.0.1:8765}:8765"]}


def test_compose__settings_are_in_the_page() -> None:
    variables = set(re.findall(r"\$\{(\w+)", COMPOSE_FILE.read_text()))
    table = PAGE.split("Settings, in `.env`:")[1].split("\n\n")[1]
    assert variables == set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE))


def test_files__hold_no_secret() -> None:
    given = re.compile(r"(?i)\w*(?:password|token|secret)\w*['\"]?\s*[:=]\s*['\"]?[\w+/-]{6,}")
    for path in [DOCKERFILE, COMPOSE_FILE, *PAGES, *DEPLOYMENT.iterdir()]:
        assert not given.findall(path.read_text()), path


# systemd and cron


def test_units__are_valid(tmp_path: Path) -> None:
    analyze = tool("systemd-analyze")
    shutil.copytree("/usr/lib/systemd", tmp_path / "usr/lib/systemd", symlinks=True)
    units = tmp_path / "etc/systemd/system"
    units.mkdir(parents=True)
    for unit in UNITS:
        shutil.copy(unit, units)
    for program in ("opt/fsq/bin/fsq", "usr/bin/nvidia-modprobe"):
        (tmp_path / program).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / program).write_text("#!/bin/sh\n")
        (tmp_path / program).chmod(0o755)

    done = run(analyze, "verify", "--man=no", f"--root={tmp_path}", *(unit.name for unit in UNITS))

    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_timer__ends_before_midnight() -> None:
    timer = (DEPLOYMENT / "fsq-submit.timer").read_text()
    expression = re.findall(r"^OnCalendar=(.*)$", timer, re.MULTILINE)[0]
    done = run(tool("systemd-analyze"), "calendar", "--iterations=100", expression, TZ="UTC")
    times = re.findall(r" (\d\d:\d\d):00 UTC$", done.stdout, re.MULTILINE)
    assert (min(times), max(times)) == ("20:00", "23:50")


def test_crontab__lines_have_five_valid_fields_and_a_command() -> None:
    assert len(cron_lines()) == 2
    for line in cron_lines():
        *fields, command = line.split(maxsplit=5)
        CronSim(" ".join(fields), datetime(2026, 11, 24))
        assert len(fields) == 5
        assert re.match(r"(cd|fsq) ", command)
        assert "%" not in command  # cron would end the command there


def test_crontab__submits_when_the_timer_does() -> None:
    times = CronSim(" ".join(cron_lines()[0].split()[:5]), datetime(2026, 11, 24, 12))
    day = [next(times) for _ in range(24)]
    assert (day[0], day[-1]) == (datetime(2026, 11, 24, 20), datetime(2026, 11, 24, 23, 50))


# Monitoring


def alert_rules() -> str:
    (block,) = re.findall(r"```yaml\n(groups:.*?)```", PAGE, re.DOTALL)
    return str(block)


def dashboard_expressions() -> list[str]:
    found = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    return [expression.replace("$__rate_interval", "5m") for expression in found]


def alert_expressions() -> list[str]:
    return [rule["expr"] for group in yaml.safe_load(alert_rules())["groups"] for rule in group["rules"]]


def selectors(node: Any) -> Iterator[Any]:
    """Every selection of series in a parsed expression."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    for name in ("lhs", "rhs", "expr", "args", "vector_selector"):
        inner = getattr(node, name, None)
        for child in inner if isinstance(inner, list) else [inner]:
            if child is not None:
                yield from selectors(child)


def documented_metrics() -> dict[str, set[str]]:
    """Name and labels of each metric in the table of the page."""
    rows = re.findall(r"^\| `(fsq_\w+)` \| ([^|]*)\|", PAGE, re.MULTILINE)
    return {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}


@pytest.mark.parametrize("expression", [*dashboard_expressions(), *alert_expressions()])
def test_expressions__use_documented_metrics_and_labels(expression: str) -> None:
    documented = documented_metrics()
    found = list(selectors(promql_parser.parse(expression)))
    assert found
    for selector in found:
        name = selector.name.removesuffix("_bucket")
        assert name in documented
        assert {matcher.name for matcher in selector.matchers.matchers} <= documented[name]


def test_metrics__table_names_what_the_server_has(tmp_path: Path) -> None:
    database = open_current(f"sqlite:///{tmp_path / 'fsq.db'}")
    families = list(Metrics(FromDatabase(database, Watch(database))).registry.collect())
    database.close()
    names = {family.name + ("_total" if family.type == "counter" else "") for family in families}
    assert names == set(documented_metrics())


def test_dashboard__shows_every_metric_and_takes_any_data_source() -> None:
    shown = {
        selector.name for text in dashboard_expressions() for selector in selectors(promql_parser.parse(text))
    }
    assert {name.removesuffix("_bucket") for name in shown} == set(documented_metrics())
    variables = {variable["name"]: variable["type"] for variable in DASHBOARD["templating"]["list"]}
    assert variables == {"datasource": "datasource"}
    used = [panel["datasource"]["uid"] for panel in DASHBOARD["panels"]]
    used += [target["datasource"]["uid"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    assert set(used) == {"${datasource}"}


def test_dashboard__panels_are_apart() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        {(x, y) for x in range(g["x"], g["x"] + g["w"]) for y in range(g["y"], g["y"] + g["h"])}
        for g in (panel["gridPos"] for panel in panels)
    ]
    assert not any(one & other for one, other in combinations(cells, 2))
    assert max(x for panel in cells for x, _ in panel) < 24


def test_alerts__are_three_valid_rules(tmp_path: Path) -> None:
    assert len(alert_expressions()) == 3
    promtool = tool("promtool")
    rules = tmp_path / "rules.yml"
    rules.write_text(alert_rules())
    done = run(promtool, "check", "rules", rules)
    assert done.returncode == 0, done.stderr


def test_prometheus__configuration_is_valid() -> None:
    done = run(tool("promtool"), "check", "config", "--syntax-only", DEPLOYMENT / "prometheus.yml")
    assert done.returncode == 0, done.stderr


def test_prometheus__reads_the_rules_and_sends_a_token() -> None:
    configuration = yaml.safe_load((DEPLOYMENT / "prometheus.yml").read_text())
    assert all(f"`{path}`" in PAGE for path in configuration["rule_files"])
    (scrape,) = configuration["scrape_configs"]
    assert scrape["authorization"] == {"type": "Bearer", "credentials_file": "/etc/prometheus/fsq.token"}


# The nightly rounds


def test_nightly__page_shows_the_files_and_the_crontab() -> None:
    for path in NIGHTLY.iterdir():
        assert f"```yaml\n{path.read_text()}```" in NIGHTLY_PAGE
    assert "```\n" + "\n".join(cron_lines()) + "\n```" in NIGHTLY_PAGE


def test_nightly__rounds_can_be_submitted_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same_day: None
) -> None:
    monkeypatch.setenv("FSQ_HOME", str(tmp_path))
    for _ in range(2):
        for name in ("search", "seeds"):
            done = CliRunner().invoke(app, ["submit", str(NIGHTLY / f"{name}.yaml")])
            assert done.exit_code == 0, done.output

    rounds = json.loads(CliRunner().invoke(app, ["status", "--json"]).stdout)["rounds"]

    search, seeds = rounds
    assert (search["state"], seeds["state"]) == ("active", "waiting")
    assert seeds["reason"] == f"waits for round {search['round']}"
