"""What a restricted key may do: a permission per endpoint, set per key while the sandbox runs.

From docs.stripe.com/keys: each resource is none, read or write, and write includes read. The words of the refusal are as
users report them. The names that it gives to the permissions of meters are assumed.
"""

from collections.abc import Iterable, Mapping

from aggregator.sandbox.checks import is_names, require
from aggregator.sandbox.errors import ApiError

# Ours, and the name by which Stripe's refusal speaks of it. Events of version 1 and of version 2 can be refused one by one.
PERMISSIONS = {
    "meters_read": "rak_billing_meter_read",
    "meters_write": "rak_billing_meter_write",
    "meter_events_write": "rak_billing_meter_event_write",
    "meter_event_adjustments_write": "rak_billing_meter_event_adjustment_write",
    "sessions_write": "rak_billing_meter_event_session_write",
    "customers_read": "rak_customer_read",
    "customers_write": "rak_customer_write",
    "account_read": "rak_accounts_kyc_basic_read",
    "events_read": "rak_event_read",
    "snapshot_events_read": "rak_event_read",
}

EVERYTHING = frozenset(PERMISSIONS)


def read_permissions(data: object) -> dict[str, frozenset[str]]:
    """Build the permissions of keys from JSON. Raise ValueError for a name that is none."""
    require(isinstance(data, Mapping), "permissions", 'like {"rk_test_...": ["meters_read"]}')
    assert isinstance(data, Mapping)
    return {key: _names(names) for key, names in data.items()}


def allows(granted: Iterable[str], permission: str) -> bool:
    """Say whether these permissions include one."""
    return not {permission, permission.replace("_read", "_write")}.isdisjoint(granted)


def lacking(permission: str, key: str, account: str) -> ApiError:
    """Return the 403 for a key without a permission; `key` is masked already."""
    message = (
        f"The provided key '{key}' does not have the required permissions for this endpoint on account '{account}'. "
        f"Having the '{PERMISSIONS[permission]}' permission would allow this request to continue."
    )
    return ApiError(403, message, reason="missing_permission")


def _names(names: object) -> frozenset[str]:
    require(is_names(names), "permissions", "a list of names for each key")
    assert isinstance(names, list | tuple | frozenset)
    unknown = sorted(set(names) - EVERYTHING)
    if unknown:
        raise ValueError(f"Unknown permissions: {', '.join(unknown)}. Known: {', '.join(PERMISSIONS)}.")
    return frozenset(names)
