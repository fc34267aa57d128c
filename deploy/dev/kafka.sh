#!/usr/bin/env bash
# One Apache Kafka broker (KRaft) on this machine, for development and tests, by itself or as a node of a cluster.
# Needs Java 17 or later and Maven; the jars come from Maven Central, once.
#
#   deploy/dev/kafka.sh start DIR PORT [WATCHED_PID]
#   deploy/dev/kafka.sh stop DIR
#
# "start" keeps data, settings and the log of the broker in DIR, listens on 127.0.0.1:PORT only, and returns
# when the broker answers. The same DIR started again goes on with its data. With WATCHED_PID the broker stops
# when that process is gone.
#
#   KAFKA_VERSION     version, 4.1.1
#   KAFKA_HEAP        options of the heap, -Xms128m -Xmx256m
#   KAFKA_CACHE       where the jars are kept, ~/.cache/p2engine/kafka-VERSION
#   KAFKA_LISTENER    one more listener as NAME://host:port, with
#   KAFKA_ADVERTISED  the address that clients of it are told, and
#   KAFKA_PROTOCOL    its security protocol, PLAINTEXT
#   KAFKA_VOTERS      the nodes of a cluster, three or more, as ID@host:port,… with the ports of their controllers.
#                     Each is started by itself, all of them at once; "start" returns when this one has joined.
#                     What brokers keep for themselves has three copies then, of which two must have a record
#   KAFKA_NODE        which of them this is, 1
#   KAFKA_CLUSTER_ID  the same id for all of them, 22 letters and digits
#   KAFKA_EXTRA       more lines of server.properties
#   KAFKA_FORMAT      more arguments for formatting, such as --add-scram 'SCRAM-SHA-256=[name=u,password=p]'
set -euo pipefail
. "$(dirname "$0")/process.sh"

fail() {
  echo "kafka.sh: $*" >&2
  exit 1
}

stop() {
  end_process "$1/kafka.pid" "$1" TERM 10
}

# Waits for the end of the process that wants it, then ends what runs in DIR. One watcher serves every start in DIR.
watch() {
  exec 8>"$DIR/watched"
  flock -n 8 || return 0
  wait_for_end_of "$1"
  end_process "$DIR/kafka.pid" "$DIR" KILL 10
}

is_cluster() { [ -n "${KAFKA_VOTERS:-}" ]; }

# The port of this node's controller among the voters.
controller_port() {
  local voter
  for voter in ${KAFKA_VOTERS//,/ }; do
    if [ "${voter%%@*}" = "$NODE" ]; then
      echo "${voter##*:}"
      return
    fi
  done
  fail "KAFKA_VOTERS has no node $NODE: '$KAFKA_VOTERS'"
}

# Whether the broker says since its start, which began at this byte of its log, that the others know it.
joined() {
  tail -c "+$(($1 + 1))" "$DIR/server.out" | grep -q 'Transition from STARTING to STARTED'
}

fetch() {
  [ -e "$JARS/.complete" ] && return
  command -v mvn >/dev/null || fail "Maven (mvn) is not installed: it fetches the broker's jars"
  mkdir -p "$JARS"
  cat >"$JARS/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>p2engine</groupId>
  <artifactId>kafka-dev</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_2.13</artifactId>
      <version>$VERSION</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId>
      <artifactId>slf4j-simple</artifactId>
      <version>1.7.36</version>
    </dependency>
  </dependencies>
</project>
POM
  # Two starts at a time fetch into one cache: the second waits for the first.
  (
    flock 9
    [ -e "$JARS/.complete" ] && exit 0
    mvn -q -B -f "$JARS/pom.xml" dependency:copy-dependencies \
      -DoutputDirectory="$JARS/libs" -DincludeScope=runtime >&2
    touch "$JARS/.complete"
  ) 9>"$JARS/.lock"
}

settings() {
  # Nodes of a cluster that share a busy machine must not take each other for gone.
  local copies=1 insync=1 heartbeat=500 session=3000
  if is_cluster; then copies=3 insync=2 heartbeat=1000 session=6000; fi
  local more=${KAFKA_LISTENER:+,$KAFKA_LISTENER} advertised=${KAFKA_ADVERTISED:+,$KAFKA_ADVERTISED}
  local map="PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT"
  [ -n "${KAFKA_LISTENER:-}" ] && map="$map,${KAFKA_LISTENER%%:*}:${KAFKA_PROTOCOL:-PLAINTEXT}"
  cat <<CONF
process.roles=broker,controller
node.id=$NODE
listeners=PLAINTEXT://127.0.0.1:$PORT,CONTROLLER://127.0.0.1:$CONTROLLER$more
advertised.listeners=PLAINTEXT://127.0.0.1:$PORT$advertised
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=$map
controller.quorum.voters=$VOTERS
log.dirs=$DIR/log
auto.create.topics.enable=false
min.insync.replicas=$insync
default.replication.factor=$copies
offsets.topic.replication.factor=$copies
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=$copies
transaction.state.log.min.isr=$insync
transaction.state.log.num.partitions=4
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
group.consumer.min.session.timeout.ms=1000
group.consumer.min.heartbeat.interval.ms=100
log.cleaner.dedupe.buffer.size=8388608
log.cleaner.threads=1
num.network.threads=2
num.io.threads=4
broker.heartbeat.interval.ms=$heartbeat
broker.session.timeout.ms=$session
controller.quorum.fetch.timeout.ms=4000
${KAFKA_EXTRA:-}
CONF
}

start() {
  DIR=$1 PORT=$2
  local watched=${3:-} java=${JAVA_HOME:+$JAVA_HOME/bin/}java id pid
  command -v "$java" >/dev/null || fail "Java is not installed: the broker needs version 17 or later"
  VERSION=${KAFKA_VERSION:-4.1.1}
  JARS=${KAFKA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/p2engine/kafka-$VERSION}
  fetch
  mkdir -p "$DIR"
  DIR=$(cd "$DIR" && pwd)
  if runs "$DIR/kafka.pid" "$DIR" >/dev/null; then
    fail "a broker runs in $DIR already"
  fi
  NODE=${KAFKA_NODE:-1}
  if is_cluster; then
    [[ $KAFKA_VOTERS == *,*,* ]] || fail "KAFKA_VOTERS must name three nodes or more, found '$KAFKA_VOTERS'"
    CONTROLLER=$(controller_port) VOTERS=$KAFKA_VOTERS
  else
    # The controller's port is kept in the data of the broker, so it stays what it was.
    [ -e "$DIR/controller.port" ] || echo "${KAFKA_CONTROLLER_PORT:-$((PORT + 1))}" >"$DIR/controller.port"
    CONTROLLER=$(cat "$DIR/controller.port")
    VOTERS=$NODE@127.0.0.1:$CONTROLLER
  fi
  settings >"$DIR/server.properties"
  if [ ! -e "$DIR/log/meta.properties" ]; then
    # No '-' and no '_': the formatter takes an id that begins with '-' for an option.
    id=${KAFKA_CLUSTER_ID:-$(head -c 16 /dev/urandom | base64 | tr '+/' 'xy' | tr -d '=')}
    # shellcheck disable=SC2086
    "$java" -Xmx128m -XX:TieredStopAtLevel=1 -cp "$JARS/libs/*" kafka.tools.StorageTool format \
      -t "$id" -c "$DIR/server.properties" ${KAFKA_FORMAT:-} >"$DIR/format.out" 2>&1 ||
      fail "formatting failed: $(cat "$DIR/format.out")"
  fi
  touch "$DIR/server.out"
  local before
  before=$(wc -c <"$DIR/server.out")
  # shellcheck disable=SC2086
  nohup "$java" ${KAFKA_HEAP:--Xms128m -Xmx256m} -XX:+UseSerialGC -XX:+ExitOnOutOfMemoryError \
    -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -Dorg.slf4j.simpleLogger.log.kafka.server.BrokerServer=info \
    -cp "$JARS/libs/*" kafka.Kafka "$DIR/server.properties" >>"$DIR/server.out" 2>&1 </dev/null 9>&- &
  pid=$!
  echo "$pid" >"$DIR/kafka.pid"
  if [ -n "$watched" ]; then
    watch "$watched" </dev/null >/dev/null 2>&1 &
  fi
  for _ in $(seq 1 900); do
    if (exec 3<>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null && { ! is_cluster || joined "$before"; }; then
      echo "$pid"
      return 0
    fi
    kill -0 "$pid" 2>/dev/null || fail "the broker ended: $(tail -20 "$DIR/server.out")"
    sleep 0.1
  done
  kill "$pid"
  fail "the broker does not answer on port $PORT after 90 s, or the others do not know it: see $DIR/server.out"
}

case "${1:-}" in
  start) [ $# -ge 3 ] || fail "usage: kafka.sh start DIR PORT [WATCHED_PID]"; start "${@:2}" ;;
  stop) [ $# -eq 2 ] || fail "usage: kafka.sh stop DIR"; stop "$2" ;;
  *) fail "usage: kafka.sh start DIR PORT [WATCHED_PID] | kafka.sh stop DIR" ;;
esac
