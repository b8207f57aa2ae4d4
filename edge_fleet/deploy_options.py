"""Options of `edge-fleet deploy` for how the requests to a model are split, remembered, batched and guarded."""

import argparse

from edge_fleet.experiments import Terms, parse_batching, parse_limit


def add_terms(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "--unit",
        choices=["request", "key", "device"],
        help="what goes to one arm as a whole (default: as before, else each request)",
    )
    parser.add_argument(
        "--experiment", metavar="NAME", help="name of the A/B test (default: as before, else the model's)"
    )
    parser.add_argument("--cache", choices=["on", "off"], help="whether devices remember results")
    parser.add_argument("--cache-ttl", type=float, metavar="SECONDS", help="how long they remember a result")
    parser.add_argument(
        "--batch",
        metavar="SIZE[:DELAY_US]",
        help="run waiting requests together, for models whose manifest has limits.max_batch; off ends it",
    )
    _add_guardrails(parser)


def _add_guardrails(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-error-rate",
        type=parse_limit,
        default=argparse.SUPPRESS,
        metavar="SHARE",
        help="go back if a larger share of requests fails in the bake time, 0 to 1; or off (default: 0.05)",
    )
    parser.add_argument(
        "--max-p99-ratio",
        type=parse_limit,
        default=argparse.SUPPRESS,
        metavar="FACTOR",
        help="go back if the p99 of run times is more than so many times the old one; or off (default: 3)",
    )
    parser.add_argument(
        "--min-requests",
        type=int,
        default=argparse.SUPPRESS,
        metavar="N",
        help="with fewer requests to a new version, and 5 times as many for the p99, there is no verdict "
        "(default: 20)",
    )


def terms(options: argparse.Namespace) -> Terms:
    """Return what was asked for; raises RequestError."""
    return Terms(
        unit=options.unit,
        experiment=options.experiment,
        cache=None if options.cache is None else options.cache == "on",
        cache_ttl_s=options.cache_ttl,
        batching=None if options.batch is None else parse_batching(options.batch),
        guardrails=_guardrails(options),
    )


def _guardrails(options: argparse.Namespace) -> dict[str, float | None]:
    names = ("max_error_rate", "max_p99_ratio", "min_requests")
    return {name: getattr(options, name) for name in names if name in options}
