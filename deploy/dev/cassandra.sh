#!/usr/bin/env bash
# One Apache Cassandra node for development and tests, from the jars on Maven Central; needs Java 17 and Maven,
# nothing else. Everything listens on 127.0.0.1, everything it writes is below DIR. The jars are fetched once and
# kept in ~/.cache/p2engine/cassandra-VERSION, or where P2_CASSANDRA_CACHE says.
#
#   cassandra.sh jars                      fetch the jars, nothing else
#   cassandra.sh start DIR PORT [HEAP]     start, wait until CQL answers; PORT, PORT+1 and PORT+2 must be free
#                                          P2_CASSANDRA_AUTH=1  users and passwords (cassandra/cassandra)
#                                          P2_CASSANDRA_TLS=1   TLS beside plain text on PORT, certificate in
#                                                               DIR/tls/ca.pem
#                                          P2_OWNER=PID         end it when that process is gone, and keep of DIR
#                                                               only the logs
#   cassandra.sh stop DIR                  end it and wait
#   cassandra.sh kill DIR                  kill -9 and wait; what it wrote stays, start goes on from it
set -euo pipefail
. "$(dirname "$0")/process.sh"
VERSION=${P2_CASSANDRA_VERSION:-5.0.8}
HOME_DIR=${P2_CASSANDRA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/p2engine/cassandra-$VERSION}

fail() { echo "cassandra.sh: $*" >&2; exit 1; }

jars() {
  [ -e "$HOME_DIR/complete" ] && return
  command -v java >/dev/null || fail "Java 17 is needed to run Cassandra: install it"
  command -v mvn >/dev/null || fail "Maven is needed to fetch Cassandra: install it"
  mkdir -p "$HOME_DIR"
  (
    flock 9
    [ -e "$HOME_DIR/complete" ] && exit 0
    cat > "$HOME_DIR/pom.xml" <<P
<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>p2</groupId><artifactId>cassandra-runtime</artifactId><version>1</version><packaging>pom</packaging>
<dependencies><dependency><groupId>org.apache.cassandra</groupId><artifactId>cassandra-all</artifactId>
<version>$VERSION</version></dependency></dependencies></project>
P
    cd "$HOME_DIR"
    mvn -q -B dependency:copy-dependencies -DoutputDirectory=lib -DincludeScope=runtime >mvn.log 2>&1 ||
      fail "Maven could not fetch Cassandra $VERSION: see $HOME_DIR/mvn.log"
    touch complete
  ) 9>"$HOME_DIR/lock"
}

# A throw-away authority, and a certificate of it for 127.0.0.1 and localhost.
certificate() {
  local store=(-keystore "$1/tls/node.p12" -storetype PKCS12 -storepass throwaway)
  [ -e "$1/tls/ca.pem" ] && return
  mkdir -p "$1/tls"
  {
    keytool -genkeypair -alias ca -keyalg EC -validity 30 -dname CN=p2-test-ca -ext bc:c "${store[@]}"
    keytool -genkeypair -alias node -keyalg EC -validity 30 -dname CN=localhost "${store[@]}"
    keytool -certreq -alias node "${store[@]}" |
      keytool -gencert -rfc -alias ca -validity 30 -ext SAN=ip:127.0.0.1,dns:localhost "${store[@]}" \
        > "$1/tls/node.pem"
    keytool -importcert -noprompt -alias node -file "$1/tls/node.pem" "${store[@]}"
  } >/dev/null 2>&1
  # The key of the authority has done its work; the node needs its own alone.
  keytool -exportcert -rfc -alias ca "${store[@]}" > "$1/tls/ca.pem.new" 2>/dev/null
  keytool -delete -alias ca "${store[@]}" >/dev/null 2>&1
  mv "$1/tls/ca.pem.new" "$1/tls/ca.pem"
}

configuration() {
  local dir=$1 cql=$2 auth=AllowAllAuthenticator tls=false
  [ -n "${P2_CASSANDRA_AUTH:-}" ] && auth=PasswordAuthenticator
  [ -n "${P2_CASSANDRA_TLS:-}" ] && { tls=true; certificate "$dir"; }
  cat > "$dir/conf/cassandra.yaml" <<Y
cluster_name: p2-test
num_tokens: 1
partitioner: org.apache.cassandra.dht.Murmur3Partitioner
authenticator: $auth
commitlog_sync: periodic
commitlog_sync_period: 1000ms
commitlog_segment_size: 8MiB
commitlog_total_space: 256MiB
data_file_directories: [$dir/data]
commitlog_directory: $dir/commitlog
hints_directory: $dir/hints
saved_caches_directory: $dir/cache
cdc_raw_directory: $dir/cdc
seed_provider: [{class_name: org.apache.cassandra.locator.SimpleSeedProvider, parameters: [{seeds: "127.0.0.1:$((cql + 1))"}]}]
listen_address: 127.0.0.1
rpc_address: 127.0.0.1
storage_port: $((cql + 1))
native_transport_port: $cql
start_native_transport: true
endpoint_snitch: SimpleSnitch
memtable_heap_space: 64MiB
memtable_offheap_space: 64MiB
memtable_flush_writers: 1
concurrent_compactors: 1
concurrent_reads: 16
concurrent_writes: 16
key_cache_size: 8MiB
file_cache_size: 32MiB
networking_cache_size: 16MiB
auto_snapshot: false
materialized_views_enabled: false
hinted_handoff_enabled: false
client_encryption_options:
  enabled: $tls
  optional: $tls
  keystore: $dir/tls/node.p12
  keystore_password: throwaway
  store_type: PKCS12
  require_client_auth: false
Y
  cat > "$dir/conf/logback.xml" <<L
<configuration><appender name="F" class="ch.qos.logback.core.FileAppender"><file>$dir/log/system.log</file>
<encoder><pattern>%-5level %d{HH:mm:ss.SSS} %logger{0} %msg%n</pattern></encoder></appender>
<root level="INFO"><appender-ref ref="F"/></root></configuration>
L
}

# What Cassandra opens of Java 17, as in its own jvm17-server.options.
OPENS="java.base/java.io java.base/java.lang java.base/java.lang.module java.base/java.lang.ref
java.base/java.lang.reflect java.base/java.math java.base/java.net java.base/java.nio java.base/java.util
java.base/java.util.concurrent java.base/java.util.concurrent.atomic java.base/jdk.internal.loader
java.base/jdk.internal.ref java.base/jdk.internal.reflect java.base/jdk.internal.math
java.base/jdk.internal.module java.base/jdk.internal.util.jar java.base/sun.nio.ch
java.rmi/sun.rmi.registry java.rmi/sun.rmi.server java.sql/java.sql
jdk.management/com.sun.management.internal jdk.management.jfr/jdk.management.jfr
jdk.compiler/com.sun.tools.javac.file"
EXPORTS="java.base/jdk.internal.misc java.base/jdk.internal.ref java.base/jdk.internal.perf
java.base/sun.nio.ch java.management.rmi/com.sun.jmx.remote.internal.rmi java.rmi/sun.rmi.registry
java.rmi/sun.rmi.server java.sql/java.sql java.rmi/sun.rmi.transport.tcp jdk.attach/sun.tools.attach
jdk.unsupported/sun.misc jdk.compiler/com.sun.tools.javac.file"

start() {
  local dir cql=$2 heap=${3:-384M} options=() module
  mkdir -p "$1"
  dir=$(cd "$1" && pwd)
  jars
  mkdir -p "$dir"/{conf,data,commitlog,hints,cache,cdc,log,tmp}
  configuration "$dir" "$cql"
  for module in $OPENS; do options+=(--add-opens "$module=ALL-UNNAMED"); done
  for module in $EXPORTS; do options+=(--add-exports "$module=ALL-UNNAMED"); done
  cd "$dir"
  java -Xms"$heap" -Xmx"$heap" -XX:+UseSerialGC -XX:MaxDirectMemorySize=256M -XX:TieredStopAtLevel="${P2_CASSANDRA_TIER:-4}" \
    -javaagent:"$(echo "$HOME_DIR"/lib/jamm-*.jar)" -Djdk.attach.allowAttachSelf=true \
    -Djava.io.tmpdir="$dir/tmp" -Djna.tmpdir="$dir/tmp" -Dcassandra.config="file://$dir/conf/cassandra.yaml" \
    -Dlogback.configurationFile="$dir/conf/logback.xml" -Dcassandra.storagedir="$dir" \
    -Dcassandra.logdir="$dir/log" -Dcassandra-foreground=yes -Dcassandra.skip_wait_for_gossip_to_settle=0 \
    -Dcassandra.ring_delay_ms=0 -Dcassandra.superuser_setup_delay_ms=0 \
    -Dcassandra.jmx.local.port=$((cql + 2)) -Dio.netty.tryReflectionSetAccessible=true "${options[@]}" \
    -cp "$dir/conf:$HOME_DIR/lib/*" org.apache.cassandra.service.CassandraDaemon \
    >>"$dir/log/stdout" 2>&1 9>&- </dev/null &
  echo $! > "$dir/pid"
  disown
  [ -z "${P2_OWNER:-}" ] || watch "$dir" "$P2_OWNER"
  for _ in $(seq 1200); do
    kill -0 "$(cat "$dir/pid")" 2>/dev/null || { tail -20 "$dir/log/stdout" >&2; fail "Cassandra ended while starting, its log: $dir/log"; }
    (exec 3<>"/dev/tcp/127.0.0.1/$cql") 2>/dev/null && return
    sleep 0.1
  done
  kill -9 "$(cat "$dir/pid")" 2>/dev/null || true
  fail "Cassandra did not answer within 2 minutes, its log: $dir/log"
}

# Waits for the owner's end, then ends whichever node is running in DIR. One watcher serves every start in DIR.
watch() {
  local dir=$1 owner=$2
  [ -e "$dir/watched" ] && return
  touch "$dir/watched"
  (
    wait_for_end_of "$owner"
    end TERM "$dir"
    rm -rf "$dir"/{data,commitlog,hints,cache,cdc,tmp,watched}
  ) </dev/null >/dev/null 2>&1 &
  disown
}

end() {
  end_process "$2/pid" "$2" "$1" 30
}

case "${1:-}" in
  jars) jars ;;
  start) [ $# -ge 3 ] || fail "start needs DIR and PORT"; start "$2" "$3" "${4:-}" ;;
  stop) end TERM "$2" ;;
  kill) end KILL "$2" ;;
  *) fail "one of jars, start, stop, kill; see the head of this file" ;;
esac
