#!/usr/bin/env bash
# The whole real stack on this machine: Kafka, a CQL server (Cassandra), a schema registry, Prometheus. For
# development and tests; everything listens on 127.0.0.1 only and installs itself (Java 17, Maven and curl are
# needed).
#
#   deploy/dev/stack.sh up     [--only kafka,cql,registry,prometheus] [--dir DIR]
#   deploy/dev/stack.sh down   [--only …] [--dir DIR]
#   deploy/dev/stack.sh status [--only …] [--dir DIR]
#
# "up" starts what does not run yet, one after the other, returns when all of it answers, and prints the settings
# for p2engine.toml. "down" ends what "up" has started in DIR and nothing else; the data stays, and the next "up"
# goes on with it (to begin anew: "down", then remove DIR). "status" ends with 1 where something does not run.
#
#   DIR               data, logs, ports and process ids: .p2-dev in the current directory
#   P2_KAFKA_PORT     9092, and the next one for the controller
#   P2_CQL_PORT       9042, and the next two
#   P2_REGISTRY_PORT  8081
#   P2_PROMETHEUS_PORT  9090
#   P2_METRICS_TARGETS  what Prometheus scrapes, 127.0.0.1:7070 to 127.0.0.1:7075
set -euo pipefail
. "$(dirname "$0")/process.sh"

HERE=$(cd "$(dirname "$0")" && pwd)
ALL="kafka cql registry prometheus"

fail() {
  echo "stack.sh: $*" >&2
  exit 1
}

pid_file() {
  case $1 in
    cql) echo "$DIR/cql/pid" ;;
    *) echo "$DIR/$1/$1.pid" ;;
  esac
}

log_of() {
  case $1 in
    kafka) echo "$DIR/kafka/server.out" ;;
    cql) echo "$DIR/cql/log/system.log" ;;
    *) echo "$DIR/$1/$1.out" ;;
  esac
}

default_port() {
  case $1 in
    kafka) echo "${P2_KAFKA_PORT:-9092}" ;;
    cql) echo "${P2_CQL_PORT:-9042}" ;;
    registry) echo "${P2_REGISTRY_PORT:-8081}" ;;
    prometheus) echo "${P2_PROMETHEUS_PORT:-9090}" ;;
  esac
}

# The port it runs on, or would.
port() { cat "$DIR/$1/port" 2>/dev/null || default_port "$1"; }

# How many ports it takes, one after the other.
width() {
  case $1 in
    kafka) echo 2 ;;
    cql) echo 3 ;;
    *) echo 1 ;;
  esac
}

# Prints the process id where the service runs.
running() {
  runs "$(pid_file "$1")" "$DIR/$1"
}

taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

up_one() {
  local name=$1 port variable begin=$SECONDS pid offset
  variable=P2_$(tr '[:lower:]' '[:upper:]' <<<"$name")_PORT
  port=$(default_port "$name")
  if pid=$(running "$name"); then
    printf '%-11s runs already on 127.0.0.1:%s, process %s\n' "$name" "$(port "$name")" "$pid"
    return
  fi
  rm -f "$(pid_file "$name")"
  [[ $port =~ ^[0-9]+$ ]] && [ "$port" -lt 65500 ] || fail "$variable must be a port, found '$port'"
  for ((offset = 0; offset < $(width "$name"); offset++)); do
    taken $((port + offset)) &&
      fail "port $((port + offset)), which $name needs, is in use by another program: end it, or set $variable"
  done
  mkdir -p "$DIR/$name"
  echo "$port" >"$DIR/$name/port"
  case $name in
    # A broker keeps its controller's port; with another port it moves along.
    kafka) rm -f "$DIR/kafka/controller.port"; "$HERE/kafka.sh" start "$DIR/kafka" "$port" >/dev/null ;;
    cql) env -u P2_OWNER "$HERE/cassandra.sh" start "$DIR/cql" "$port" ;;
    registry) "$HERE/registry.sh" start "$DIR/registry" "$port" >/dev/null ;;
    prometheus) "$HERE/prometheus.sh" start "$DIR/prometheus" "$port" "${P2_METRICS_TARGETS:-}" >/dev/null ;;
  esac
  printf '%-11s up on 127.0.0.1:%s, process %s, %s s\n' "$name" "$port" "$(running "$name")" $((SECONDS - begin))
}

down_one() {
  local name=$1 pid
  if ! pid=$(running "$name"); then
    rm -f "$(pid_file "$name")"
    printf '%-11s does not run\n' "$name"
    return
  fi
  case $name in
    cql) "$HERE/cassandra.sh" stop "$DIR/cql" ;;
    *) "$HERE/$name.sh" stop "$DIR/$name" ;;
  esac
  printf '%-11s ended, process %s\n' "$name" "$pid"
}

status_one() {
  local name=$1 pid answers
  if ! pid=$(running "$name"); then
    printf '%-11s does not run\n' "$name"
    return 1
  fi
  answers=answers
  taken "$(port "$name")" || answers="does not answer"
  printf '%-11s %s on 127.0.0.1:%s, process %s, log %s\n' "$name" "$answers" "$(port "$name")" "$pid" "$(log_of "$name")"
  [ "$answers" = answers ]
}

settings() {
  local name
  printf '\nFor p2engine.toml:\n\n'
  for name in $ALL; do
    running "$name" >/dev/null || continue
    case $name in
      kafka) printf '[kafka]\nbrokers = "127.0.0.1:%s"\n' "$(port kafka)" ;;
      cql) printf '[scylla]\nnodes = ["127.0.0.1:%s"]\n' "$(port cql)" ;;
      registry)
        printf '# Optional: values with the registry'"'"'s schema ids.\n'
        printf '# [schema_registry]\n# url = "http://127.0.0.1:%s/apis/ccompat/v7"\n' "$(port registry)"
        ;;
      prometheus) printf '# Prometheus: http://127.0.0.1:%s\n' "$(port prometheus)" ;;
    esac
  done
}

# The head of this file.
usage() { sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; }

command=${1:-}
case $command in
  up | down | status) shift ;;
  -h | --help | help)
    usage
    exit 0
    ;;
  *)
    echo "stack.sh: one of up, down, status:" >&2
    usage >&2
    exit 2
    ;;
esac
only=$ALL DIR=.p2-dev
while [ $# -gt 0 ]; do
  case $1 in
    --only=*) only=${1#*=}; shift ;;
    --dir=*) DIR=${1#*=}; shift ;;
    --only | --dir)
      [ $# -ge 2 ] || fail "$1 needs a value"
      if [ "$1" = --only ]; then only=$2; else DIR=$2; fi
      shift 2
      ;;
    *) fail "there is no option '$1': --only and --dir are what there is" ;;
  esac
done
chosen=
for name in ${only//,/ }; do
  case " $ALL " in
    *" $name "*) chosen="$chosen $name" ;;
    *) fail "there is no service '$name': choose from ${ALL// /, }" ;;
  esac
done
[ -n "$chosen" ] || fail "--only names no service: choose from ${ALL// /, }"

if [ "$command" = up ]; then mkdir -p "$DIR"; fi
[ -d "$DIR" ] || { echo "Nothing was started in $DIR."; [ "$command" = down ]; exit; }
DIR=$(cd "$DIR" && pwd)
result=0
for name in $chosen; do
  case $command in
    up) up_one "$name" ;;
    down) down_one "$name" ;;
    status) status_one "$name" || result=1 ;;
  esac
done
if [ "$command" = up ]; then settings; fi
exit "$result"
