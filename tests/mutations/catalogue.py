"""The mistakes: where each is made, and which tests must notice it.

A mistake is a piece of code that stands once in its file, and what stands there instead. `tests/tidy/test_mutations.py`
holds the catalogue to the code as it is.
"""

from typing import NamedTuple


class Mistake(NamedTuple):
    """One mistake, made by replacing `right` by `wrong` in a file."""

    name: str
    file: str
    right: str
    wrong: str
    tests: tuple[str, ...]

    def made_in(self, text: str) -> str:
        """Return the file's text with the mistake in it."""
        assert text.count(self.right) == 1, (
            f"{self.name}: {self.right!r} stands {text.count(self.right)} times"
        )
        return text.replace(self.right, self.wrong)


MISTAKES: tuple[Mistake, ...] = (
    Mistake(
        "a pass commits under an epoch that is over",
        "aggregator/ledger/passes/passes.py",
        " where id = %(meter_id)s and epoch = %(epoch)s and lease_owner = %(owner)s\n   for update",
        " where id = %(meter_id)s and lease_owner = %(owner)s\n   for update",
        ("tests/postgres/test_leases.py",),
    ),
    Mistake(
        "a pass is committed into a stopped ledger",
        "aggregator/ledger/passes/passes.py",
        "        if stopped is not None:\n            raise LedgerStopped(stopped)\n",
        "",
        ("tests/postgres/test_identity.py::test_a_pass_into_a_stopped_ledger_writes_nothing",),
    ),
    Mistake(
        "what is refused at once is planned anew by every pass, beside an event that was rejected",
        "aggregator/ledger/passes/passes.py",
        "rejected = [event for event, was_accepted in gone if was_accepted]",
        "rejected = [event for event, _ in gone]",
        (
            "tests/postgres/test_reconciliation.py::test_what_is_refused_at_once_is_not_planned_anew_by_every_pass",
        ),
    ),
    Mistake(
        "a decrease is held by a limit",
        "aggregator/core/planner.py",
        "if policy.watches and delta > 0 and state is DUE:",
        "if policy.watches and state is DUE:",
        ("tests/core/test_guards.py",),
    ),
    Mistake(
        "what a person let go is held again for each late row",
        "aggregator/core/guards.py",
        "return now > limit and (passed <= limit or now - passed > limit)",
        "return now > limit",
        (
            "tests/core/test_guards.py",
            "tests/postgres/test_guards.py::test_a_late_row_of_what_was_released_goes_by_itself",
        ),
    ),
    Mistake(
        "what waits counts as let go, so that the next late row sends all of it",
        "aggregator/core/guards.py",
        "passed = change.total if change.passed else booked",
        "passed = change.total",
        ("tests/postgres/test_guards.py::test_a_change_of_what_is_held_is_held_in_its_place",),
    ),
    Mistake(
        "what a guard holds becomes what is usual",
        "aggregator/ledger/passes/changes.py",
        "where held.event_id = slot.tail and held.guard <> 'shrink_guard')",
        "where held.event_id = slot.tail and false)",
        ("tests/postgres/test_guards.py::test_what_a_guard_holds_is_no_measure_until_it_is_released",),
    ),
    Mistake(
        "one week with usage is a history",
        "aggregator/core/guards.py",
        "LEAST_WEEKS = 2",
        "LEAST_WEEKS = 1",
        ("tests/postgres/test_guards.py::test_who_has_no_history_is_not_unusual",),
    ),
    Mistake(
        "a customer who is held makes its whole window swollen",
        "aggregator/ledger/passes/usual.py",
        "coalesce(sum(waiting.delta) filter (where not holds), 0) as counted",
        "0 as counted",
        ("tests/postgres/test_guards.py::test_one_customer_who_is_held_does_not_make_its_window_swollen",),
    ),
    Mistake(
        "a swollen window leaves bit by bit, with each late row",
        "aggregator/ledger/passes/usual.py",
        "coalesce(sum(waiting.delta) filter (where holds), 0) as waiting",
        "0 as waiting",
        ("tests/postgres/test_guards.py::test_late_rows_of_a_swollen_window_wait_with_the_rest",),
    ),
    Mistake(
        "what was dismissed of a swollen window goes with the rest",
        "aggregator/ledger/passes/usual.py",
        "where parked.feed_id = %(feed_id)s and parked.guard = 'max_total_change' and parked.dismissed_at is null\n"
        "       and parked.moved_with is null",
        "where parked.feed_id = %(feed_id)s and parked.guard = 'max_total_change'\n"
        "       and parked.moved_with is null",
        ("tests/postgres/test_guards.py::test_what_a_person_dismissed_of_a_swollen_window_stays_dismissed",),
    ),
    Mistake(
        "windows of another length are compared",
        "aggregator/core/definitions.py",
        "if definition.since <= instant and definition.window != held.window:",
        "if False:",
        ("tests/postgres/test_guards.py::test_windows_of_another_length_are_not_compared",),
    ),
    Mistake(
        "a zero is said in place of seats that are held",
        "aggregator/core/planner.py",
        "return policy.sends_total and event.state is State.HELD and not change.unsaid",
        "return policy.sends_total and event.state is State.HELD",
        ("tests/core/test_guards.py::test_of_a_window_that_was_never_said_nothing_is_said_again",),
    ),
    Mistake(
        "seats that are held are planned anew behind each older window that is said",
        "aggregator/core/planner.py",
        "change.shadow or change.unsaid or change.tail",
        "change.shadow or change.tail",
        ("tests/core/test_guards.py::test_a_held_window_is_passed_over_when_an_older_one_is_said",),
    ),
    Mistake(
        "a customer with usage in three of four weeks is missed in the fifth",
        "aggregator/ledger/passes/silent_customers.py",
        "having count(*) = %(weeks)s and min(week) = 1",
        "having count(*) >= 3 and min(week) = 1",
        ("tests/postgres/test_silent_customers.py",),
    ),
    Mistake(
        "delivery goes on although a settlement lost rows",
        "aggregator/delivery/sender.py",
        "if began >= hold.until or settled < len(outcomes):",
        "if began >= hold.until:",
        (
            "tests/postgres/test_delivery.py::test_a_claim_that_lost_rows_to_another_process_sends_nothing_more",
        ),
    ),
    Mistake(
        "a stretch counts as heard although stopping cut it short",
        "aggregator/reconciliation/notification_poller.py",
        "            if self._stopping.is_set():\n                break  # it may not have been taken whole\n",
        "",
        (
            "tests/postgres/test_notification_poller.py::test_a_stretch_that_stopping_cut_short_is_not_noted_as_heard",
        ),
    ),
    Mistake(
        "a figure of zero proves a cancellation at once",
        "aggregator/reconciliation/canceller.py",
        "wanted.seen_at is not None and had_time and figure == ZERO",
        "wanted.seen_at is not None and figure == ZERO",
        ("tests/postgres/test_cancelling.py::test_a_figure_of_zero_proves_nothing_right_after_the_try",),
    ),
    Mistake(
        "a host's clock may be an hour off",
        "aggregator/ledger/clock.py",
        "abs(ahead) <= self._skew",
        "abs(ahead) <= self._skew + dt.timedelta(hours=1)",
        ("tests/postgres/test_clocks.py::test_a_host_whose_clock_is_wrong_reads_nothing",),
    ),
    Mistake(
        "the daemon lets a host's clock be an hour off",
        "aggregator/wiring/app.py",
        "CLOCK_SKEW = timedelta(seconds=60)",
        "CLOCK_SKEW = timedelta(seconds=3600)",
        ("tests/postgres/test_clocks.py::test_every_part_that_is_put_together_asks_the_same_clock",),
    ),
    Mistake(
        "a commit does not wait for the disk",
        "aggregator/ledger/database.py",
        "       set_config('synchronous_commit', 'on', true),\n",
        "",
        (
            "tests/postgres/test_session_settings.py::test_what_we_rely_on_is_set_with_every_transaction[database]",
        ),
    ),
    Mistake(
        "settling a part of a claim does not renew the rest",
        "aggregator/ledger/outbox/outbox.py",
        "            if renew:\n",
        "            if False:\n",
        ("tests/postgres/test_delivery.py::test_settling_a_part_of_a_claim_renews_the_rest",),
    ),
    Mistake(
        "a process forgets the count that it has seen itself",
        "aggregator/runtime/claim_counter.py",
        "and seen.order > written.order",
        "and seen.order < written.order",
        ("tests/core/test_claim_counter.py::test_a_file_that_was_put_back_does_not_lower_the_count",),
    ),
    Mistake(
        "the file beside the ledger is not on disk",
        "aggregator/runtime/claim_counter.py",
        "        file.flush()\n        os.fsync(file.fileno())\n",
        "        file.flush()\n",
        ("tests/core/test_claim_counter.py::test_the_count_is_on_disk_before_anybody_goes_on",),
    ),
    Mistake(
        "the name of the file beside the ledger is not on disk",
        "aggregator/runtime/claim_counter.py",
        "    _sync(path.parent)\n",
        "",
        ("tests/core/test_claim_counter.py::test_the_count_is_on_disk_before_anybody_goes_on",),
    ),
    Mistake(
        "a claim is not counted beside the ledger before it is sent",
        "aggregator/ledger/outbox/outbox.py",
        "        identity.noted(count)\n",
        "        pass\n",
        ("tests/postgres/test_identity.py::test_a_claim_counts_before_anything_leaves",),
    ),
    Mistake(
        "a window that shrank is lowered once its plan is replaced",
        "aggregator/core/planner.py",
        "guarded = policy.guarded or change.tail is Tail.GUARDED",
        "guarded = policy.guarded",
        (
            "tests/postgres/test_shrink_guard_edges.py::test_a_table_that_is_loaded_again_bit_by_bit_takes_nothing_back",
        ),
    ),
    Mistake(
        "a duplicate after a failed attempt stops the ledger",
        "aggregator/core/retry.py",
        "or event.exposed_at is not None or event.attempts > 1:",
        "or event.exposed_at is not None:",
        (
            "tests/core/test_retry.py::test_only_a_duplicate_of_what_was_never_tried_shows_that_the_ledger_forgot",
        ),
    ),
    Mistake(
        "a proof that equals the last one is none",
        "aggregator/core/commit_barrier.py",
        "(fence.fresh_until or NEVER) < seen_until",
        "(fence.fresh_until or NEVER) <= seen_until",
        ("tests/core/test_admission.py::test_a_source_that_shows_less_than_before_is_not_believed",),
    ),
    Mistake(
        "a source has shown what is still to come",
        "aggregator/core/freshness.py",
        "None if shown is None else min(shown, self._now)",
        "shown",
        ("tests/core/test_admission.py::test_nobody_has_shown_what_is_still_to_come",),
    ),
    Mistake(
        "patience replaces a proof",
        "aggregator/core/commit_barrier.py",
        "return Ready(until if passed.proven_until is None else min(until, passed.proven_until), fenced_until)",
        "return Ready(until, fenced_until)",
        ("tests/core/test_admission.py::test_patience_does_not_replace_a_proof",),
    ),
    Mistake(
        "a whole unit that differs still fits",
        "aggregator/core/rebase.py",
        "subtract(comparison.truth, comparison.booked).copy_abs() < unit",
        "subtract(comparison.truth, comparison.booked).copy_abs() <= unit",
        (
            "tests/core/test_rebase.py::test_a_sum_that_agrees_is_believed_only_where_nothing_would_be_planned",
        ),
    ),
    Mistake(
        "what was given up cannot be in a figure",
        "aggregator/core/readbacks.py",
        "if event.asked or event.maybe_sent]",
        "if event.asked]",
        ("tests/core/test_readbacks.py::test_what_a_figure_proves",),
    ),
    Mistake(
        "held windows have newer ones said again",
        "aggregator/ledger/passes/reassert.py",
        "and feed_id = %(feed_id)s and state = 'due'\n         group by customer",
        "and feed_id = %(feed_id)s\n         group by customer",
        (
            "tests/postgres/test_replacing_sinks.py::test_decreases_that_are_held_have_nothing_said_again_for_them",
        ),
    ),
    Mistake(
        "an event in doubt is dismissed",
        "aggregator/ledger/review/parked.py",
        " where event_id = any(%(events)s) and state in ('held', 'refused') returning event_id\n\"\"\"\n\nLOCK_SLOTS",
        ' where event_id = any(%(events)s) returning event_id\n"""\n\nLOCK_SLOTS',
        ("tests/postgres/test_in_doubt.py::test_only_what_is_held_or_refused_is_released_or_dismissed",),
    ),
    Mistake(
        "a figure settles what has changed meanwhile",
        "aggregator/ledger/review/in_doubt.py",
        "            if _again(connection, in_span) != in_span:\n                return Settled(stale=True)\n",
        "",
        ("tests/postgres/test_in_doubt.py::test_nothing_is_concluded_from_what_has_changed",),
    ),
    Mistake(
        "a stretch without answers is asked for twice",
        "aggregator/ledger/review/unacknowledged.py",
        'upper(span) > %(since)s)\nreturning id\n"""\n\n# What a sink',
        'upper(span) >= %(since)s)\nreturning id\n"""\n\n# What a sink',
        ("tests/postgres/test_unacknowledged.py::test_every_event_lies_in_one_stretch",),
    ),
    Mistake(
        "a file is settled by who lost it",
        "aggregator/ledger/outbox/files.py",
        " where claim.id = %(claim)s and claim.owner = %(owner)s and file.written_at is null for update",
        " where claim.id = %(claim)s and file.written_at is null for update",
        ("tests/postgres/test_files.py::test_only_the_owner_settles",),
    ),
    Mistake(
        "a file in the making is taken over",
        "aggregator/ledger/outbox/files.py",
        "and file.written_at is null and file.held_until <= %(now)s\n order by",
        "and file.written_at is null\n order by",
        ("tests/postgres/test_files.py::test_a_claim_that_runs_is_nobody_else_s",),
    ),
    Mistake(
        "a rejected file may be confirmed",
        "aggregator/ledger/outbox/uploads.py",
        "                elif rejected_at:",
        "                elif rejected_at and confirmed_at:",
        (
            (
                "tests/postgres/test_files_rejected.py"
                "::test_what_is_confirmed_is_not_rejected_nor_the_other_way_round"
            ),
        ),
    ),
    Mistake(
        "what was let go is taken back",
        "aggregator/ledger/outbox/first_use.py",
        "where id = %(feed)s and cleared_until = 0 for update",
        "where id = %(feed)s for update",
        ("tests/postgres/test_first_use.py::test_what_was_let_go_meanwhile_is_not_taken_back",),
    ),
    Mistake(
        "a feed whose sink was not asked is claimed",
        "aggregator/ledger/outbox/turns.py",
        "case when feed.cleared_at is null then feed.cleared_until else 9223372036854775807 end as until",
        "9223372036854775807 as until",
        ("tests/postgres/test_first_use.py::test_nothing_leaves_before_the_sink_has_said_it",),
    ),
    Mistake(
        "a sink is asked for more than a feed bills",
        "aggregator/delivery/first_use.py",
        "end = now if until is None else min(now, until)",
        "end = now",
        ("tests/postgres/test_first_use.py::test_what_is_asked_for",),
    ),
    Mistake(
        "a meter may begin an hour before the other one ended",
        "aggregator/core/renaming.py",
        "begin >= line.until or not line.outlet.is_same(outlet)",
        "begin > line.until - dt.timedelta(hours=1) or not line.outlet.is_same(outlet)",
        ("tests/core/test_renaming.py::test_it_may_begin_where_the_other_ended",),
    ),
    Mistake(
        "a meter that is renamed keeps its lease",
        "aggregator/ledger/meter_names.py",
        "formerly = formerly || name, epoch = epoch + 1, lease_owner = null, lease_until = null",
        "formerly = formerly || name",
        ("tests/postgres/test_leases.py::test_who_knows_a_meter_by_a_former_name_has_lost_it",),
    ),
    Mistake(
        "a person's word lifts any stop",
        "aggregator/ledger/identity.py",
        "stopped = None if found.stopped_by_failover else found.stopped_reason",
        "stopped = None",
        ("tests/postgres/test_failover.py::test_a_person_may_say_that_nothing_was_lost",),
    ),
    Mistake(
        "one host is believed after a failover though it was not alone",
        "aggregator/ledger/identity.py",
        '(failover == "one_host" and found.alone)',
        'failover == "one_host"',
        ("tests/postgres/test_failover.py::test_one_host_that_is_not_the_only_one_is_believed_no_more",),
    ),
    Mistake(
        "a holder is ended before its lease has run out",
        "aggregator/ledger/meters.py",
        '   and meter.lease_until <= clock_timestamp()\n"""\n\n# The very',
        '"""\n\n# The very',
        ("tests/postgres/test_silent_holder.py::test_who_has_its_lease_is_not_ended_however_silent",),
    ),
    Mistake(
        "a file that a clock of before had put off waits",
        "aggregator/ledger/outbox/outbox.py",
        "     where file.written_at is null and file.held_until > %(until)s\n",
        "     where file.written_at is not null and file.held_until > %(until)s\n",
        ("tests/postgres/test_clocks.py::test_a_file_that_was_held_by_a_clock_of_before_is_taken_over_soon",),
    ),
    Mistake(
        "a sink is called back while it still has to take something",
        "aggregator/daemon/halted_sink.py",
        "                if idle:\n                    self.took()",
        "                self.took()",
        (
            "tests/core/test_halting.py::test_it_comes_back_once_it_takes_something_and_both_ends_are_said_once",
        ),
    ),
    Mistake(
        "a weekday beside `*/2` days is either of them",
        "aggregator/config/cron.py",
        'if day.startswith("*") or weekday.startswith("*"):',
        'if day == "*" or weekday == "*":',
        ("tests/core/test_cron.py::test_a_line_wakes_when_a_crontab_would",),
    ),
    Mistake(
        "a secret of eight letters shows in a longer word",
        "aggregator/runtime/redact.py",
        "if len(secret) >= IN_A_WORD:",
        "if len(secret) > IN_A_WORD:",
        ("tests/core/test_redact.py::test_a_secret_is_hidden_where_it_stands_as_one",),
    ),
    Mistake(
        "colour is forced although none is wanted",
        "aggregator/runtime/terminal.py",
        'if os.environ.get("NO_COLOR"):',
        'if os.environ.get("NO_COLOR") and not os.environ.get("FORCE_COLOR"):',
        ("tests/core/test_terminal.py::test_colours_come_where_they_are_wanted",),
    ),
    Mistake(
        "row security hides rows although nobody allowed it",
        "aggregator/source/postgres.py",
        '"on" if reading.filtered else "off"',
        '"on"',
        ("tests/postgres/test_row_security.py::test_a_query_that_a_policy_would_filter_is_refused",),
    ),
    Mistake(
        "an upload in parts counts without an ETag",
        "aggregator/sinks/files/bucket.py",
        '                self._surely(answer, "ETag")\n                done = True',
        "                done = True",
        ("tests/contract/test_s3_answers.py::test_the_same_of_an_upload_in_parts",),
    ),
    Mistake(
        "an account that could not be looked at never is again",
        "aggregator/sinks/stripe/connect.py",
        "(self._failure is not None and passed > ASK_AGAIN_SECONDS) or (",
        "(self._failure is not None and misfit and passed > ASK_AGAIN_SECONDS) or (",
        (
            "tests/contract/test_stripe_connect.py::test_an_account_that_cannot_be_looked_at_is_asked_once_a_second",
        ),
    ),
    Mistake(
        "a part of a refused request counts as not arrived",
        "aggregator/sinks/metronome/responses.py",
        "if judgement.answer in (Answer.UNSENT, Answer.BUSY):",
        "if judgement.answer is Answer.BUSY:",
        ("tests/contract/test_metronome_sink.py::test_a_half_that_may_not_leave_is_unknown",),
    ),
    Mistake(
        "another customer's usage is taken",
        "aggregator/sinks/metronome/account.py",
        'if row.get("customer_id") != known or row.get("billable_metric_id") != metric:',
        'if row.get("billable_metric_id") != metric:',
        ("tests/contract/test_metronome_sink.py::test_usage_that_makes_no_sense_is_no_total",),
    ),
    Mistake(
        "a backfill goes before what is new",
        "aggregator/ledger/outbox/turns.py",
        "from (values (false), (true)) as kind (backfill)",
        "from (values (true), (false)) as kind (backfill)",
        ("tests/postgres/test_fairness.py::test_what_is_new_goes_before_a_backfill",),
    ),
    Mistake(
        "a cancellation is tried while the ledger is stopped",
        "aggregator/ledger/review/cancellations.py",
        "and next_at <= %(now)s\n"
        "   and not exists (select from aggregator.identity where stopped_at is not null)\nreturning",
        "and next_at <= %(now)s\nreturning",
        ("tests/postgres/test_cancelling.py::test_a_stopped_ledger_asks_a_sink_for_nothing",),
    ),
    Mistake(
        "what one meter leaves of a claim nobody gets",
        "aggregator/ledger/outbox/turns.py",
        "ready.until, among.share, %(limit)s::int from ready cross join among",
        "ready.until, among.share, %(limit)s::int from ready cross join among where false",
        ("tests/postgres/test_fairness.py::test_meters_take_turns",),
    ),
    Mistake(
        "noise swallows a whole unit",
        "aggregator/ledger/passes/changes.py",
        "> least(%(unit)s / 2, greatest(",
        "> greatest(%(unit)s / 2, greatest(",
        ("tests/postgres/test_floats.py::test_what_is_seen_at_the_decimals_is_billed",),
    ),
    Mistake(
        "a delivery signed for tomorrow is taken",
        "aggregator/sinks/stripe/notifications.py",
        "return signed_at - utcnow().timestamp() <= TOLERANCE_SECONDS",
        "return utcnow().timestamp() - signed_at <= TOLERANCE_SECONDS",
        ("tests/postgres/test_webhook.py::test_what_is_not_signed_is_not_believed",),
    ),
    Mistake(
        "a lost stretch is kept that is no longer billed",
        "aggregator/core/feed_terms.py",
        "_cut(coverage.lost, since, terms.bill_until)",
        "coverage.lost",
        (
            "tests/core/test_feed_terms.py::test_what_the_source_no_longer_has_is_lost_until_it_is_back_or_given_up",
        ),
    ),
    Mistake(
        "what counts up to the present is read in one snapshot only",
        "aggregator/source/engine.py",
        "if found is not None or query_text.present(query) is None:",
        "if True:",
        (("tests/postgres/test_unstable.py::test_a_query_that_counts_up_to_the_present_comes_to_rest"),),
    ),
    Mistake(
        "windows that overlap are taken for a state",
        "aggregator/trial/findings.py",
        "text.rounded(query) or text.widened(query)",
        "text.rounded(query)",
        ("tests/postgres/test_trial.py::test_what_a_query_does_not_mean_is_named[beyond the end]",),
    ),
    Mistake(
        "usage is moved to one of two customers that it fits",
        "aggregator/ledger/review/moves.py",
        "     where ways = 1 and ways_back = 1\n",
        "     where ways >= 1 and ways_back = 1\n",
        ("tests/postgres/test_moves.py::test_usage_that_fits_two_others_is_no_move",),
    ),
    Mistake(
        "what waits counts as billed as well",
        "aggregator/ledger/usage.py",
        "    select customer, window_start, 1, -delta, null, null from not_billed\n     union all\n",
        "",
        ("tests/postgres/test_usage.py::test_every_line_of_any_history_adds_up",),
    ),
    Mistake(
        "what was dismissed counts as held still",
        "aggregator/ledger/usage.py",
        "            when parked.dismissed_at is not null then 5\n",
        "",
        ("tests/postgres/test_usage.py::test_every_line_of_any_history_adds_up",),
    ),
    Mistake(
        "what is unmapped counts beside its slot",
        "aggregator/ledger/usage.py",
        "select customer, window_start, 8, quantity - coalesce(known, 0), quantity - coalesce(known, 0), null from unmapped",
        "select customer, window_start, 8, quantity, quantity, null from unmapped",
        ("tests/postgres/test_usage.py::test_every_line_of_any_history_adds_up",),
    ),
    Mistake(
        "an open window counts beside its slot",
        "aggregator/ledger/usage.py",
        "part, quantity - coalesce(known, 0), quantity - coalesce(known, 0), null from opened",
        "part, quantity, quantity, null from opened",
        ("tests/postgres/test_usage.py::test_every_line_of_any_history_adds_up",),
    ),
    Mistake(
        "the first number of a window counts as billed",
        "aggregator/ledger/usage.py",
        "event.revision as place",
        "-event.revision as place",
        ("tests/postgres/test_usage.py::test_every_line_of_any_history_adds_up",),
    ),
    Mistake(
        "rows that a feed does not bill count as unmapped",
        "aggregator/ledger/usage.py",
        "unmapped.window_start >= greatest(%(start)s, %(since)s)",
        "unmapped.window_start >= %(start)s",
        ("tests/postgres/test_usage.py::test_every_line_of_any_history_adds_up",),
    ),
    Mistake(
        "usage in shadow counts as billed",
        "aggregator/ledger/usage.py",
        "and %(shadowed)s and event.state = 'shadow'",
        "and false and event.state = 'shadow'",
        ("tests/postgres/test_usage.py::test_every_line_of_any_history_adds_up",),
    ),
    Mistake(
        "what the sink cannot have counted yet is called missing",
        "aggregator/core/drift.py",
        "event.attempted_at is not None and event.attempted_at > terms.now - terms.proof",
        "False",
        ("tests/core/test_drift.py::test_what_is_fresh_is_not_missing_yet",),
    ),
    Mistake(
        "events are called missing while the sink says that its totals are late",
        "aggregator/core/drift.py",
        "    booked = [event for event in place.events if event.state in BOOKED]\n    if terms.late is not None:",
        "    booked = [event for event in place.events if event.state in BOOKED]\n    if terms.late == '':",
        ("tests/core/test_drift.py::test_nothing_is_missing_while_the_sink_says_that_it_is_late",),
    ),
    Mistake(
        "one of several selections of events is called missing",
        "aggregator/core/drift.py",
        "    return fitting[0] if len(fitting) == 1 else ()",
        "    return fitting[0]",
        ("tests/core/test_drift.py::test_several_selections_name_no_event",),
    ),
    Mistake(
        "a ledger that differs alone is taken for usage of somebody else's",
        "aggregator/core/drift.py",
        "    if not more or on_its_way or subtract(place.source, place.read) != more:",
        "    if True:",
        ("tests/core/test_drift.py::test_a_ledger_that_differs_alone_is_put_right",),
    ),
    Mistake(
        "what was given up before it left is taken for a duplicate",
        "aggregator/core/drift.py",
        "            self.exposed and not self.rejected and self.state",
        "            not self.rejected and self.state",
        ("tests/core/test_drift.py::test_an_event_that_was_tried_again_may_count_twice",),
    ),
    Mistake(
        "a repair is built on a ledger that contradicts itself",
        "aggregator/core/drift.py",
        "    if contradiction is not None:\n        return [contradiction]\n",
        "",
        ("tests/core/test_drift.py::test_a_ledger_that_contradicts_itself_is_left_alone",),
    ),
    Mistake(
        "usage that the source took back is taken for late",
        "aggregator/core/drift.py",
        "        if rose > 0 and window.start >= terms.read_again_from:",
        "        if window.start >= terms.read_again_from:",
        ("tests/core/test_drift.py::test_what_the_source_changed_since",),
    ),
    Mistake(
        "a read of hours goes beyond a page",
        "aggregator/core/drift.py",
        "ROWS_AT_ONCE = 96",
        "ROWS_AT_ONCE = 120",
        ("tests/core/test_drift.py::test_the_fewest_reads_are_planned",),
    ),
    Mistake(
        "a place is put right that has changed since it was compared",
        "aggregator/ledger/review/repairs.py",
        "            if not _stands(rows, place):",
        "            if False:",
        ("tests/postgres/test_drift.py::test_what_changed_since_it_was_compared_is_left",),
    ),
    Mistake(
        "what a sink holds is taken over beside an event that waits",
        "aggregator/ledger/review/repairs.py",
        "        if open_ones:",
        "        if False:",
        ("tests/postgres/test_drift.py::test_a_slot_with_an_event_that_waits_is_left",),
    ),
    Mistake(
        "a sink is checked while it says that its totals are late",
        "aggregator/reconciliation/checker.py",
        "        if result.late is not None or not self._may_ask():",
        "        if not self._may_ask():",
        ("tests/postgres/test_checks.py::test_nothing_is_asked_while_totals_are_late",),
    ),
    Mistake(
        "a sink is asked more often than a day allows",
        "aggregator/sinks/read_allowance.py",
        "            return self._used <= self.per_day",
        "            return True",
        ("tests/postgres/test_checks.py::test_all_processes_count_the_reads_of_a_day_together",),
    ),
    Mistake(
        "an event is checked with every claim that it was in",
        "aggregator/ledger/review/checks.py",
        "       and not exists (select from aggregator.attempt\n"
        "                        where attempt.event_id = event.id and attempt.claim_id = claim.id)\n",
        "",
        ("tests/postgres/test_checks.py::test_what_was_not_settled_yet_is_not_passed_over",),
    ),
    Mistake(
        "what could not be asked counts as checked",
        "aggregator/reconciliation/checker.py",
        "| set(finder.unseen)",
        "",
        ("tests/postgres/test_checks.py::test_what_may_not_be_asked_waits",),
    ),
)
