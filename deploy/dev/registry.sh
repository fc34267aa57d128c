#!/usr/bin/env bash
# One schema registry with the Confluent API on this machine, for development and tests: Apicurio Registry from
# Maven Central. Needs Java 17 or later, Maven and curl.
#
#   deploy/dev/registry.sh start DIR PORT [WATCHED_PID]
#   deploy/dev/registry.sh stop DIR
#
# "start" keeps the schemas (an H2 file) and the log in DIR, listens on 127.0.0.1:PORT only, and returns when the
# registry answers; its address is then http://127.0.0.1:PORT/apis/ccompat/v7. The same DIR started again goes on
# with its schemas and their ids. With WATCHED_PID the registry stops when that process is gone.
#
#   APICURIO_VERSION  version, 2.6.13.Final
#   APICURIO_HEAP     options of the heap, -Xmx256m
#   APICURIO_CACHE    where the program is kept, ~/.cache/p2engine/apicurio-VERSION
set -euo pipefail
. "$(dirname "$0")/process.sh"

fail() {
  echo "registry.sh: $*" >&2
  exit 1
}

stop() {
  end_process "$1/registry.pid" "$1" TERM 10
}

# Waits for the end of the process that wants it, then ends what runs in DIR. One watcher serves every start in DIR.
watch() {
  exec 8>"$DIR/watched"
  flock -n 8 || return 0
  wait_for_end_of "$1"
  end_process "$DIR/registry.pid" "$DIR" KILL 10
}

fetch() {
  [ -e "$HOME_DIR/.complete" ] && return
  command -v mvn >/dev/null || fail "Maven (mvn) is not installed: it fetches the registry"
  mkdir -p "$HOME_DIR"
  # Two starts at a time fetch into one cache: the second waits for the first.
  (
    flock 9
    [ -e "$HOME_DIR/.complete" ] && exit 0
    mvn -q -B dependency:copy -DoutputDirectory="$HOME_DIR" \
      -Dartifact="io.apicurio:apicurio-registry-app:$VERSION:tar.gz:all" >&2
    tar xzf "$HOME_DIR/apicurio-registry-app-$VERSION-all.tar.gz" -C "$HOME_DIR"
    rm -f "$HOME_DIR/apicurio-registry-app-$VERSION-all.tar.gz"
    touch "$HOME_DIR/.complete"
  ) 9>"$HOME_DIR/.lock"
}

start() {
  DIR=$1 PORT=$2
  local watched=${3:-} java=${JAVA_HOME:+$JAVA_HOME/bin/}java pid
  command -v "$java" >/dev/null || fail "Java is not installed: the registry needs version 17 or later"
  command -v curl >/dev/null || fail "curl is not installed: it asks whether the registry answers"
  VERSION=${APICURIO_VERSION:-2.6.13.Final}
  HOME_DIR=${APICURIO_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/p2engine/apicurio-$VERSION}
  fetch
  mkdir -p "$DIR"
  DIR=$(cd "$DIR" && pwd)
  if runs "$DIR/registry.pid" "$DIR" >/dev/null; then
    fail "a registry runs in $DIR already"
  fi
  # shellcheck disable=SC2086
  nohup "$java" ${APICURIO_HEAP:--Xmx256m} -XX:+UseSerialGC -XX:+ExitOnOutOfMemoryError \
    -Dquarkus.http.host=127.0.0.1 -Dquarkus.http.port="$PORT" -Dregistry.ui.config.auth.type=none \
    -Dquarkus.datasource.jdbc.url="jdbc:h2:file:$DIR/schemas" \
    -jar "$HOME_DIR/apicurio-registry-app-$VERSION-runner.jar" >>"$DIR/registry.out" 2>&1 </dev/null 9>&- &
  pid=$!
  echo "$pid" >"$DIR/registry.pid"
  if [ -n "$watched" ]; then
    watch "$watched" </dev/null >/dev/null 2>&1 &
  fi
  for _ in $(seq 1 900); do
    if curl -fs -o /dev/null "http://127.0.0.1:$PORT/apis/ccompat/v7/subjects"; then
      echo "$pid"
      return 0
    fi
    kill -0 "$pid" 2>/dev/null || fail "the registry ended: $(tail -20 "$DIR/registry.out")"
    sleep 0.1
  done
  kill "$pid"
  fail "the registry does not answer on port $PORT after 90 s: see $DIR/registry.out"
}

case "${1:-}" in
  start) [ $# -ge 3 ] || fail "usage: registry.sh start DIR PORT [WATCHED_PID]"; start "${@:2}" ;;
  stop) [ $# -eq 2 ] || fail "usage: registry.sh stop DIR"; stop "$2" ;;
  *) fail "usage: registry.sh start DIR PORT [WATCHED_PID] | registry.sh stop DIR" ;;
esac
