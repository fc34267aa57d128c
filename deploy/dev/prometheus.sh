#!/usr/bin/env bash
# One Prometheus on this machine that scrapes p2engine processes, for development. Takes the Prometheus that is
# installed; where there is none, unpacks the package of the distribution into the cache (no root, no daemon).
#
#   deploy/dev/prometheus.sh start DIR PORT [TARGETS]
#   deploy/dev/prometheus.sh stop DIR
#
# "start" keeps data, settings and the log in DIR, listens on 127.0.0.1:PORT only, evaluates
# deploy/prometheus/rules.yml and returns when Prometheus answers. TARGETS is a list of host:port with commas,
# the ports 7070 to 7075 of this machine where it is not given. Files of targets in DIR/targets/*.json or *.yml
# (Prometheus's file_sd) are taken up while it runs.
#
#   PROMETHEUS_CACHE  where an unpacked package is kept, ~/.cache/p2engine/prometheus
set -euo pipefail
. "$(dirname "$0")/process.sh"

RULES=$(cd "$(dirname "$0")/../prometheus" && pwd)/rules.yml

fail() {
  echo "prometheus.sh: $*" >&2
  exit 1
}

stop() {
  end_process "$1/prometheus.pid" "$1" TERM 10
}

# Prints the program's path.
program() {
  local cache=${PROMETHEUS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/p2engine/prometheus}
  if command -v prometheus; then return; fi
  if [ ! -x "$cache/usr/bin/prometheus" ]; then
    command -v apt-get >/dev/null && command -v dpkg >/dev/null ||
      fail "prometheus is not installed, and there is no apt-get to fetch it: install it, or leave it out with --only"
    mkdir -p "$cache"
    (cd "$cache" && apt-get download -qq prometheus >&2 && dpkg -x prometheus_*.deb . && rm -f prometheus_*.deb) ||
      fail "the package 'prometheus' could not be fetched: install it by hand, or leave it out with --only"
  fi
  echo "$cache/usr/bin/prometheus"
}

settings() {
  local targets
  targets=$(sed 's/[^,][^,]*/"&"/g; s/,/, /g' <<<"$1")
  cat <<CONF
global:
  scrape_interval: 5s
  evaluation_interval: 5s
rule_files: ["$RULES"]
scrape_configs:
  - job_name: p2engine
    static_configs:
      - targets: [$targets]
    file_sd_configs:
      - files: ["$DIR/targets/*.json", "$DIR/targets/*.yml"]
        refresh_interval: 5s
CONF
}

start() {
  DIR=$1
  local port=$2 pid program
  local targets=${3:-127.0.0.1:7070,127.0.0.1:7071,127.0.0.1:7072,127.0.0.1:7073,127.0.0.1:7074,127.0.0.1:7075}
  program=$(program)
  mkdir -p "$DIR/targets"
  DIR=$(cd "$DIR" && pwd)
  if runs "$DIR/prometheus.pid" "$DIR" >/dev/null; then
    fail "a Prometheus runs in $DIR already"
  fi
  settings "$targets" >"$DIR/prometheus.yml"
  nohup "$program" --config.file="$DIR/prometheus.yml" --storage.tsdb.path="$DIR/data" --log.level=warn \
    --web.listen-address="127.0.0.1:$port" >>"$DIR/prometheus.out" 2>&1 </dev/null &
  pid=$!
  echo "$pid" >"$DIR/prometheus.pid"
  for _ in $(seq 1 300); do
    if curl -fs -o /dev/null "http://127.0.0.1:$port/-/ready"; then
      echo "$pid"
      return 0
    fi
    kill -0 "$pid" 2>/dev/null || fail "Prometheus ended: $(tail -20 "$DIR/prometheus.out")"
    sleep 0.1
  done
  kill "$pid"
  fail "Prometheus does not answer on port $port after 30 s: see $DIR/prometheus.out"
}

case "${1:-}" in
  start) [ $# -ge 3 ] || fail "usage: prometheus.sh start DIR PORT [TARGETS]"; start "${@:2}" ;;
  stop) [ $# -eq 2 ] || fail "usage: prometheus.sh stop DIR"; stop "$2" ;;
  *) fail "usage: prometheus.sh start DIR PORT [TARGETS] | prometheus.sh stop DIR" ;;
esac
