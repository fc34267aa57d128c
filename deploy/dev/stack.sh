#!/usr/bin/env bash
# The whole real stack on this machine: Kafka, a CQL server (Cassandra), a schema registry, Prometheus. For
# development and tests; everything listens on 127.0.0.1 only and installs itself (Java 17, Maven and curl are
# needed).
#
#   deploy/dev/stack.sh up     [--only kafka,cql,registry,prometheus] [--dir DIR] [--brokers 3]
#   deploy/dev/stack.sh down   [--only …] [--dir DIR]
#   deploy/dev/stack.sh status [--only …] [--dir DIR]
#
# "up" starts what does not run yet, one after the other, returns when all of it answers, and prints the settings
# for p2engine.toml. "down" ends what "up" has started in DIR and nothing else; the data stays, and the next "up"
# goes on with it (to begin anew: "down", then remove DIR). "status" ends with 1 where something does not run.
#
# With "--brokers 3" Kafka is a cluster of three brokers, as in production: three copies of everything, of which two
# must have a record. Without it Kafka is one broker, or what DIR has. "up" also starts a broker again that was killed.
#
#   DIR               data, logs, ports and process ids: .p2-dev in the current directory
#   P2_KAFKA_PORT     9092, and the next one for the controller; with three brokers the next five: 9092, 9094 and
#                     9096 for clients, the port after each for its controller
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

# How many brokers DIR has, or none.
brokers_in() {
  if [ -e "$DIR/kafka/brokers" ]; then
    cat "$DIR/kafka/brokers"
  elif [ -e "$DIR/kafka/log/meta.properties" ]; then
    echo 1
  fi
}

is_cluster() { [ "$1" = kafka ] && [ "$BROKERS" != 1 ]; }

# Where a broker of a cluster has its files.
node_dir() {
  case $1 in
    1) echo "$DIR/kafka" ;;
    *) echo "$DIR/kafka-$1" ;;
  esac
}

# Its port, where the first one has that of $2.
node_port() { echo $(($2 + 2 * ($1 - 1))); }

node_running() { runs "$(node_dir "$1")/kafka.pid" "$(node_dir "$1")"; }

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

# Prints the process id where the service runs; of a cluster the first that there is.
running() {
  local node
  if is_cluster "$1"; then
    for ((node = 1; node <= BROKERS; node++)); do
      node_running "$node" && return
    done
    return 1
  fi
  runs "$(pid_file "$1")" "$DIR/$1"
}

taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

check_port() {
  [[ $2 =~ ^[0-9]+$ ]] && [ "$2" -lt 65500 ] || fail "$1 must be a port, found '$2'"
}

# The brokers of a cluster that do not run, all at once: none is ready before most are.
up_cluster() {
  local first node port offset pid start begin=$SECONDS voters="" failed="" starts=()
  first=$(default_port kafka)
  if running kafka >/dev/null; then first=$(port kafka); fi
  check_port P2_KAFKA_PORT "$first"
  for ((node = 1; node <= BROKERS; node++)); do
    voters=${voters:+$voters,}$node@127.0.0.1:$(($(node_port "$node" "$first") + 1))
  done
  mkdir -p "$DIR/kafka"
  [ -e "$DIR/kafka/cluster" ] || head -c 16 /dev/urandom | base64 | tr '+/' 'xy' | tr -d '=' >"$DIR/kafka/cluster"
  echo "$BROKERS" >"$DIR/kafka/brokers"
  echo "$first" >"$DIR/kafka/port"
  for ((node = 1; node <= BROKERS; node++)); do
    port=$(node_port "$node" "$first")
    if pid=$(node_running "$node"); then
      printf '%-11s runs already on 127.0.0.1:%s, process %s\n' "kafka $node" "$port" "$pid"
      continue
    fi
    rm -f "$(node_dir "$node")/kafka.pid"
    for offset in 0 1; do
      taken $((port + offset)) &&
        fail "port $((port + offset)), which kafka $node needs, is in use by another program: end it, or set P2_KAFKA_PORT"
    done
    mkdir -p "$(node_dir "$node")"
    KAFKA_NODE=$node KAFKA_VOTERS=$voters KAFKA_CLUSTER_ID=$(cat "$DIR/kafka/cluster") \
      "$HERE/kafka.sh" start "$(node_dir "$node")" "$port" >/dev/null 2>"$(node_dir "$node")/start.out" &
    starts+=("$node:$!")
  done
  for start in ${starts[@]+"${starts[@]}"}; do
    node=${start%%:*}
    if wait "${start##*:}"; then
      printf '%-11s up on 127.0.0.1:%s, process %s, %s s\n' \
        "kafka $node" "$(node_port "$node" "$first")" "$(node_running "$node")" $((SECONDS - begin))
    else
      cat "$(node_dir "$node")/start.out" >&2
      failed="$failed $node"
    fi
  done
  [ -z "$failed" ] || fail "these brokers did not start:$failed; those that did still run"
}

up_one() {
  local name=$1 port variable begin=$SECONDS pid offset
  if is_cluster "$name"; then
    up_cluster
    return
  fi
  variable=P2_$(tr '[:lower:]' '[:upper:]' <<<"$name")_PORT
  port=$(default_port "$name")
  if pid=$(running "$name"); then
    printf '%-11s runs already on 127.0.0.1:%s, process %s\n' "$name" "$(port "$name")" "$pid"
    return
  fi
  rm -f "$(pid_file "$name")"
  check_port "$variable" "$port"
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

down_cluster() {
  local node pid stop stops=()
  for ((node = 1; node <= BROKERS; node++)); do
    if pid=$(node_running "$node"); then
      "$HERE/kafka.sh" stop "$(node_dir "$node")" &
      stops+=("$node $pid $!")
    else
      rm -f "$(node_dir "$node")/kafka.pid"
      printf '%-11s does not run\n' "kafka $node"
    fi
  done
  for stop in ${stops[@]+"${stops[@]}"}; do
    read -r node pid stop <<<"$stop"
    wait "$stop"
    printf '%-11s ended, process %s\n' "kafka $node" "$pid"
  done
}

down_one() {
  local name=$1 pid
  if is_cluster "$name"; then
    down_cluster
    return
  fi
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

status_cluster() {
  local node pid port answers result=0
  for ((node = 1; node <= BROKERS; node++)); do
    port=$(node_port "$node" "$(port kafka)")
    if ! pid=$(node_running "$node"); then
      printf '%-11s does not run\n' "kafka $node"
      result=1
      continue
    fi
    answers=answers
    taken "$port" || answers="does not answer" result=1
    printf '%-11s %s on 127.0.0.1:%s, process %s, log %s\n' \
      "kafka $node" "$answers" "$port" "$pid" "$(node_dir "$node")/server.out"
  done
  return "$result"
}

status_one() {
  local name=$1 pid answers
  if is_cluster "$name"; then
    status_cluster
    return
  fi
  if ! pid=$(running "$name"); then
    printf '%-11s does not run\n' "$name"
    return 1
  fi
  answers=answers
  taken "$(port "$name")" || answers="does not answer"
  printf '%-11s %s on 127.0.0.1:%s, process %s, log %s\n' "$name" "$answers" "$(port "$name")" "$pid" "$(log_of "$name")"
  [ "$answers" = answers ]
}

# What clients connect to.
bootstrap() {
  local node list="" port
  port=$(port kafka)
  for ((node = 1; node <= BROKERS; node++)); do
    list=${list:+$list,}127.0.0.1:$(node_port "$node" "$port")
  done
  echo "$list"
}

settings() {
  local name
  printf '\nFor p2engine.toml:\n\n'
  for name in $ALL; do
    running "$name" >/dev/null || continue
    case $name in
      kafka) printf '[kafka]\nbrokers = "%s"\n' "$(bootstrap)" ;;
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
only=$ALL DIR=.p2-dev BROKERS=
while [ $# -gt 0 ]; do
  case $1 in
    --only=*) only=${1#*=}; shift ;;
    --dir=*) DIR=${1#*=}; shift ;;
    --brokers=*) BROKERS=${1#*=}; shift ;;
    --only | --dir | --brokers)
      [ $# -ge 2 ] || fail "$1 needs a value"
      case $1 in
        --only) only=$2 ;;
        --dir) DIR=$2 ;;
        --brokers) BROKERS=$2 ;;
      esac
      shift 2
      ;;
    *) fail "there is no option '$1': --only, --dir and --brokers are what there is" ;;
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

case $BROKERS in
  "" | 1 | 3) ;;
  *) fail "--brokers must be 1 or 3, found '$BROKERS'" ;;
esac

if [ "$command" = up ]; then mkdir -p "$DIR"; fi
[ -d "$DIR" ] || { echo "Nothing was started in $DIR."; [ "$command" = down ]; exit; }
DIR=$(cd "$DIR" && pwd)
there=$(brokers_in)
if [ -n "$there" ] && [ "${BROKERS:-$there}" != "$there" ]; then
  fail "$DIR has the data of $there broker(s), not of $BROKERS: choose another --dir"
fi
BROKERS=${there:-${BROKERS:-1}}
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
