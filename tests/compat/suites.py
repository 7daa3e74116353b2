"""The suites, the releases they come from, and what our layer deliberately does otherwise."""

from __future__ import annotations

from typing import NamedTuple


class Difference(NamedTuple):
    """Tests that our layer does not pass, and why."""

    why: str
    #: As ``test_module.py::test_name``, which means all parameters of the test.
    tests: tuple[str, ...]


class Suite(NamedTuple):
    """Tests in the source archive of one release."""

    #: The distribution, as pip knows it.
    name: str
    version: str
    #: What it is to our layer.
    what: str
    #: The plug-in in `adapters` that puts our layer in the place of theirs.
    adapter: str
    #: The archive's modules of tests that are run, below its root folder.
    modules: tuple[str, ...]
    #: What else has to be installed.
    needs: tuple[str, ...] = ()
    differences: tuple[Difference, ...] = ()
    #: Modules that are not run, and why.
    left_out: str = ""


_INSIDE = "They look at the inside of that layer, or at its connection to a server."
_KEYS = "They look at the names of keys in a server."

SUITES = (
    Suite(
        name="channels_redis",
        version="4.3.0",
        what="the two layers on Redis",
        adapter="redis",
        modules=("tests/test_core.py", "tests/test_pubsub.py"),
        needs=("async-timeout",),
        differences=(
            Difference(
                _KEYS,
                (
                    "test_core.py::test_default_group_key_format",
                    "test_core.py::test_custom_group_key_format",
                ),
            ),
            Difference(
                _INSIDE,
                (
                    "test_core.py::test_receive_buffer_respects_capacity",
                    "test_pubsub.py::test_auto_reconnect",
                    "test_pubsub.py::test_serialize",
                    "test_pubsub.py::test_deserialize",
                    "test_pubsub.py::test_loop_instance_channel_layer_reference",
                    "test_pubsub.py::test_multi_event_loop_garbage_collection",
                ),
            ),
            Difference(
                "They expect that drops are logged as INFO, in other words; we log a warning that"
                " says what is full.",
                (
                    "test_core.py::test_group_send_capacity",
                    "test_core.py::test_group_send_capacity_multiple_channels",
                ),
            ),
            Difference(
                "It waits until its message has expired, and then expects it; their layer is known"
                " to fail it too.",
                ("test_core.py::test_message_expiry__group_send__one_channel_expires_message",),
            ),
            Difference(
                "It sends a str. A message is a dict, as the specification of channel layers says.",
                ("test_pubsub.py::test_receive_on_non_owned_general_channel",),
            ),
        ),
        left_out="test_sentinel, test_pubsub_sentinel (the same tests on a cluster of servers),"
        " test_serializers and test_utils (no layer)",
    ),
    Suite(
        name="channels_postgres",
        version="1.1.4",
        what="the layer on PostgreSQL",
        adapter="postgres",
        modules=("tests/test_core.py",),
        needs=("async-timeout", "psycopg[binary]", "psycopg-pool"),
        differences=(
            Difference(
                _KEYS,
                (
                    "test_core.py::test_default_group_key_format",
                    "test_core.py::test_custom_group_key_format",
                ),
            ),
            Difference(
                _INSIDE,
                (
                    "test_core.py::test_big_message",
                    "test_core.py::test_small_message",
                    "test_core.py::test_guarantee_at_most_once_delivery",
                ),
            ),
            Difference(
                "It calls group_discard with an argument `expire`, which the specification of"
                " channel layers does not have.",
                ("test_core.py::test_groups_basic",),
            ),
        ),
    ),
    Suite(
        name="channels-nats",
        version="0.6.1",
        what="the layer on NATS",
        adapter="nats",
        modules=("tests/test_layer.py",),
        differences=(
            Difference(
                _INSIDE,
                tuple(
                    f"test_layer.py::test_{name}"
                    for name in (
                        "a_cancelled_flush_leaves_no_unconfirmed_subscription",
                        "a_cancelled_group_add_leaves_no_membership_behind",
                        "a_cancelled_receiver_drops_a_plain_channel_subscription",
                        "a_cancelled_subscribe_does_not_steal_from_the_next_one",
                        "a_consumer_that_ends_on_a_message_releases_its_mailbox",
                        "a_disconnecting_consumer_releases_its_mailbox",
                        "a_failed_resubscribe_leaves_no_healthy_looking_client",
                        "a_failing_closed_cb_does_not_take_the_recovery_with_it",
                        "a_mailbox_is_not_handed_out_before_it_is_subscribed",
                        "a_receive_only_process_comes_back_after_the_connection_closes",
                        "an_oversized_message_is_refused_without_killing_the_connection",
                        "close_also_forgets_other_closed_loops",
                        "consumers_arriving_together_share_one_subscription",
                        "flush_clears_local_state",
                        "flush_does_not_strand_a_waiting_receiver",
                        "flush_survives_a_connection_that_is_already_gone",
                        "flush_wakes_every_reader_of_a_shared_channel",
                        "loops_abandoned_without_close_are_reported_once",
                        "process_channels_share_one_subscription",
                        "process_subject_is_derived_from_the_channel_prefix",
                        "recovery_does_not_bring_back_a_group_discarded_while_it_ran",
                        "state_of_a_closed_loop_is_forgotten",
                        "subjects_are_the_contract",
                        "subscriptions_are_restored_after_the_client_is_closed",
                    )
                ),
            ),
            Difference(
                "They expect that a message to a full channel is dropped. We raise ChannelFull, as"
                " the specification says.",
                (
                    "test_layer.py::test_full_mailbox_drops_new_messages",
                    "test_layer.py::test_a_full_mailbox_warns_once_not_per_dropped_message",
                ),
            ),
            Difference(
                "They expect that a channel is read through the layer object, and in the event"
                " loop, that made it. Ours may be read through any layer and loop of the process;"
                " each message arrives once all the same.",
                (
                    "test_layer.py::test_receiving_on_another_process_channel_is_refused",
                    "test_layer.py::test_receiving_on_a_process_channel_of_another_loop_is_refused",
                ),
            ),
            Difference(
                "It expects that a message may not have the key `__asgi_channel__`, which their"
                " layer adds itself; ours adds none.",
                ("test_layer.py::test_invalid_names_are_rejected",),
            ),
        ),
        left_out="test_cluster and test_harness (servers)",
    ),
    Suite(
        name="djangochannelsrestframework",
        version="1.3.0",
        what="consumers that observe models through groups",
        adapter="restframework",
        modules=(
            "tests/test_consumer.py",
            "tests/test_decorators.py",
            "tests/test_django_view_consumer.py",
            "tests/test_generic_consumer.py",
            "tests/test_model_observer.py",
            "tests/test_model_with_custom_pk_observer.py",
            "tests/test_observer.py",
            "tests/test_permission.py",
        ),
        needs=("daphne",),
    ),
)

__all__ = ["SUITES", "Difference", "Suite"]
