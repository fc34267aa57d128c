# Sourced by the other scripts: processes by what they are, not by their number alone, which the system gives to others
# once they have ended.

# Prints the process whose number is in FILE, where it lives and has files of DIR in its command line.
runs() {
  local file=$1 dir=$2 pid
  pid=$(cat "$file" 2>/dev/null) || return 1
  ps -ww -o args= -p "$pid" 2>/dev/null | grep -qF -- "$dir/" && echo "$pid"
}

# When a process began, the same text at every question; nothing where there is none. Not by ps where there is /proc: it
# works the time out from two clocks, and may be a second off from one question to the next.
born() {
  if [ -d /proc/self ]; then
    sed -e 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d ' ' -f 20 || true
  else
    ps -o lstart= -p "$1" 2>/dev/null || true
  fi
}

# Ends the process of FILE with SIGNAL, after SECONDS with KILL; returns when it is gone with all that it held, and forgets
# its number. (A process that is ending has no command line any more, and still its ports.)
end_process() {
  local file=$1 dir=$2 signal=$3 seconds=$4 pid since
  dir=$(cd "$dir" 2>/dev/null && pwd) || return 0
  if pid=$(runs "$file" "$dir"); then
    since=$(born "$pid")
    kill "-$signal" "$pid" 2>/dev/null || true
    for _ in $(seq 1 $((seconds * 10))); do
      [ "$(born "$pid")" = "$since" ] || break
      sleep 0.1
    done
    if [ "$(born "$pid")" = "$since" ]; then kill -9 "$pid" 2>/dev/null || true; fi
  fi
  rm -f "$file"
}

# Waits until the process is gone that has this number now.
wait_for_end_of() {
  local pid=$1 since
  since=$(born "$pid")
  while [ -n "$since" ] && [ "$(born "$pid")" = "$since" ]; do sleep 0.5; done
}
