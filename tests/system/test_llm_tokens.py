"""The worked example of dimensions: tokens of a gateway, by model and token type, to Stripe and to Metronome."""

import datetime as dt
from decimal import Decimal
from pathlib import Path

from ruamel.yaml import YAML

from aggregator.core.windows import HOUR, floor
from aggregator.runtime.clock import utcnow
from aggregator.sandbox.metronome import MetronomeControl
from tests.system.harness import World, as_reader

EXAMPLE = Path(__file__).parents[2] / "config" / "llm_tokens.yaml"

SPEND = """
create table "LiteLLM_SpendLogs" (
    request_id text primary key, call_type text not null, api_key text not null default '',
    spend double precision not null default 0, total_tokens integer not null default 0,
    prompt_tokens integer not null default 0, completion_tokens integer not null default 0,
    "startTime" timestamp(3) not null, "endTime" timestamp(3) not null, "completionStartTime" timestamp(3),
    model text not null default '', model_id text default '', model_group text default '',
    custom_llm_provider text default '', api_base text default '', "user" text default '', metadata jsonb default '{}',
    cache_hit text default '', cache_key text default '', request_tags jsonb default '[]', team_id text, end_user text,
    requester_ip_address text, messages jsonb default '{}', response jsonb default '{}', session_id text, status text
);
create index on "LiteLLM_SpendLogs" ("startTime");
grant select on "LiteLLM_SpendLogs" to usage_reader;
"""
"""As `schema.prisma` of litellm-proxy-extras 0.4.110 has it, as far as a meter could look at it."""

REQUESTS = (
    ("cus_ada", "large", "openai/gpt-large-2026", 100, 10),
    ("cus_ada", "large", "azure/gpt-large", 50, 0),
    ("cus_ada", "small", "openai/gpt-small", 7, 3),
    ("cus_bea", "", "small", 1000, 20),
    ("cus_bea", "huge", "openai/gpt-huge", 9, 4),
    (None, "large", "openai/gpt-large-2026", 500, 500),
)
"""End user, public name of the model, deployment, input and output tokens."""

NAMES = ("tokens_large_input", "tokens_large_output", "tokens_small")


def test_tokens_of_a_gateway(world: World) -> None:
    """Each combination goes to its Stripe meter and is told apart at Metronome; what is not mapped waits, and then goes."""
    hour = floor(utcnow(), HOUR) - 3 * HOUR
    world.source(SPEND)
    for number, (who, group, model, given, made) in enumerate(REQUESTS):
        at = (hour + dt.timedelta(minutes=number)).replace(tzinfo=None)
        world.source(
            'insert into "LiteLLM_SpendLogs" (request_id, call_type, "startTime", "endTime", end_user, model_group, model, '
            "prompt_tokens, completion_tokens) values (%s, 'acompletion', %s, %s, %s, %s, %s, %s, %s)",
            *(f"req_{number}", at, at, who, group, model, given, made),
        )
    metronome = MetronomeControl(world.sandbox.url)
    metronome.reset()
    apart = ["llm_model", "token_type"]
    metronome.add_metric("llm_tokens", filters=[{"name": each} for each in apart], group_keys=[apart])
    metronome.add_customer("ada", "cus_ada")
    metronome.add_customer("bea", "cus_bea")
    example = YAML(typ="safe").load(EXAMPLE)
    meter = example["meters"]["llm_tokens"] | {"start_at": f"{hour:%Y-%m-%dT%H:%MZ}"}
    world.config["sources"] = {
        "gateway": {"url": as_reader(world.source_url), "timezone": "UTC", "wait_for_writers": "0s"}
    }
    ours = {"api_base": metronome.url, "api_key": "token_0123456789abcdefghij"}
    world.config["sinks"]["metronome"] = example["sinks"]["metronome"] | ours
    world.config["meters"] = {"llm_tokens": meter}
    world.write()
    assert world.run("meters", "apply", "--yes").code == 0

    ran = world.once()
    totals = {name: world.sandbox.totals(name) for name in NAMES}
    assert totals == {
        "tokens_large_input": {"cus_ada": Decimal(150)},
        "tokens_large_output": {"cus_ada": Decimal(10)},
        "tokens_small": {"cus_ada": Decimal(10), "cus_bea": Decimal(1020)},
    }, ran.said
    told = {
        (each["customer_id"], each["properties"]["llm_model"], each["properties"]["token_type"]): each[
            "properties"
        ]["quantity"]
        for each in metronome.events()
    }
    assert told == {
        ("cus_ada", "large", "input"): "150",
        ("cus_ada", "large", "output"): "10",
        ("cus_ada", "small", "input"): "7",
        ("cus_ada", "small", "output"): "3",
        ("cus_bea", "small", "input"): "1000",
        ("cus_bea", "small", "output"): "20",
        ("cus_bea", "huge", "input"): "9",
        ("cus_bea", "huge", "output"): "4",
    }
    stray = {
        "transaction_id": "stray",
        "customer_id": "cus_ada",
        "event_type": "llm_tokens",
        "timestamp": f"{hour:%Y-%m-%dT%H:%M:%SZ}",
        "properties": {"quantity": "150", "llm_model": "large", "token_type": "input"},
    }
    metronome.call("POST", "/v1/ingest", [stray])
    compared = world.run("reconcile", "--json")
    [differs] = [each for each in compared.json["differences"] if each["cause"] == "foreign"]
    assert (differs["sink"], differs["customer"], differs["dimensions"], differs["amount"]) == (
        "metronome",
        "cus_ada",
        "model=large, token_type=input",
        "-150",
    )
    waits = world.run("events", "list")
    assert "no event name is mapped for model=huge" in " ".join(waits.said.split()), waits.said

    meter["stripe"]["event_names"].append({"event_name": "tokens_small", "where": {"model": "huge"}})
    world.write()
    released = world.run("events", "release", "--meter", "llm_tokens", "--state", "refused")
    assert released.code == 0, released.said
    world.once()
    assert world.sandbox.totals("tokens_small") == {"cus_ada": Decimal(10), "cus_bea": Decimal(1033)}
