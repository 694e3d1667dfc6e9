#!/usr/bin/env bash
# promtool and prometheus 2.42.0 (Debian 12): how often does a test evaluate a group of rules that has its own interval?
#
# Expected: as often as the server does, at the group's `interval`.
# Found: promtool evaluates all groups at the test's `evaluation_interval`, and passes over theirs, so that it cannot see what
# the interval does. Here the worst backlog is recorded every 10 minutes, as if its query were expensive, and an alert tells
# when there is no record. The test finds a record for each minute, and the alert silent for an hour. In the server a record is
# seen for the 5 minutes of the look-back, and the alert fires for the other five, every time. (Sources: `interval` in
# prometheus.io/docs/prometheus/latest/configuration/recording_rules; cmd/promtool/unittest.go takes all groups at each step.)
# The server runs the same rules at one sixtieth: seconds for minutes, in its look-back, too.
#
# Fails if promtool keeps to the group's interval, or if the alert stays silent in the server.
set -euo pipefail
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || { kill "$server"; wait "$server" || true; }; rm -rf "$work"' EXIT
cd "$work"
apt-get download -qq 'prometheus=2.42.0+ds-5+deb12u1' 2>/dev/null
dpkg-deb --extract prometheus_*.deb .
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat >rules.yml <<'YAML'
groups:
  - name: expensive
    interval: 10m
    rules: [{record: backlog_worst, expr: max(up)}]
  - name: alerts
    interval: 1m
    rules: [{alert: NoRecord, expr: absent(backlog_worst) and on () up offset 10m}]
YAML
cat >test.yml <<'YAML'
rule_files: [rules.yml]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series: [{series: up, values: 1x90}]
    promql_expr_test:
      - {expr: 'count_over_time(backlog_worst[1h])', eval_time: 1h, exp_samples: [{labels: '{}', value: 61}]}
      - {expr: 'count_over_time(ALERTS[1h]) or vector(0)', eval_time: 1h, exp_samples: [{labels: '{}', value: 0}]}
YAML
sed -E 's/([0-9])m\b/\1s/' rules.yml >scaled.yml
cat >prometheus.yml <<YAML
global: {scrape_interval: 1s, scrape_timeout: 1s}
rule_files: [scaled.yml]
scrape_configs: [{job_name: itself, static_configs: [{targets: ['127.0.0.1:$port']}]}]
YAML
usr/bin/promtool --version 2>&1 | head -n 1
usr/bin/promtool test rules test.yml
echo "promtool: 61 records in an hour, no alert"
usr/bin/prometheus --config.file=prometheus.yml --storage.tsdb.path=data --web.listen-address="127.0.0.1:$port" \
    --query.lookback-delta=5s --log.level=error &
server=$!
ask() { usr/bin/promtool query instant "http://127.0.0.1:$port" "$1" 2>/dev/null | sed 's/.*=> \([0-9]*\) .*/\1/'; }
until [ "$(ask 'count_over_time(up[2m]) > bool 45')" = 1 ]; do sleep 1; done
records=$(ask 'count_over_time(backlog_worst[2m])') alerts=$(ask 'count_over_time(ALERTS{alertstate="firing"}[2m])')
echo "prometheus: $records records in some 46 steps, and NoRecord fires in ${alerts:-0} of them"
[ "$records" -le 8 ]
[ "${alerts:-0}" -ge 5 ]
echo "as found"
