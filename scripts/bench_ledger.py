#!/usr/bin/env python3
"""Transfers on the embedded ledger against transfers in PostgreSQL, in turns on one machine.

    scripts/bench_ledger.py [--engine target/release/p2engine] [--rounds 3] [--seconds 8] [--transfers 10000]

PostgreSQL (Debian package postgresql) gets a data directory of its own below /tmp, on loopback, with its default
durability: fsync and synchronous_commit on. One transfer there is what a program would write: lock both accounts in the
order of their ids with SELECT ... FOR UPDATE, refuse an overdraft, move the money, write a journal row; one function, so
that a transfer is one round trip. As root, the server runs as the user postgres. Prints one line of JSON per round and
a last one with the medians.
"""

import argparse
import glob
import json
import os
import pathlib
import pwd
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile

ACCOUNTS = 100
SCHEMA = f"""
create table account (id int primary key, balance bigint not null);
create table journal (id uuid primary key, payer int not null, payee int not null, amount bigint not null,
                      payer_after bigint not null, payee_after bigint not null, at timestamptz not null);
insert into account select n, 1000000000 from generate_series(1, {ACCOUNTS}) n;
create function transfer(payer int, payee int, amount bigint) returns void language plpgsql as $$
declare had bigint; gets bigint;
begin
  perform 1 from account where id in (payer, payee) order by id for update;
  select balance into had from account where id = payer;
  if had < amount then raise exception 'insufficient'; end if;
  update account set balance = balance - amount where id = payer returning balance into had;
  update account set balance = balance + amount where id = payee returning balance into gets;
  insert into journal values (gen_random_uuid(), payer, payee, amount, had, gets, now());
end $$;
"""
PAYMENT = f"""
\\set payer random(1, {ACCOUNTS})
\\set payee 1 + (:payer + random(0, {ACCOUNTS - 2})) % {ACCOUNTS}
select transfer(:payer, :payee, 100);
"""


class Postgres:
    """A server of this run's own."""

    def __init__(self):
        found = sorted(glob.glob("/usr/lib/postgresql/*/bin/postgres"), key=lambda p: int(re.findall(r"\d+", p)[0]))
        if not found:
            sys.exit("there is no PostgreSQL: apt-get install postgresql")
        self.bin = pathlib.Path(found[-1]).parent
        self.user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        self.dir = tempfile.mkdtemp(prefix="p2-bench-postgres-")
        shutil.chown(self.dir, self.user)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.run("initdb", "-D", f"{self.dir}/data", "-A", "trust", "-U", self.user)
        arguments = ["-D", f"{self.dir}/data", "-h", "127.0.0.1", "-p", str(self.port), "-k", self.dir,
                     "-c", "max_connections=120", "-c", "fsync=on", "-c", "synchronous_commit=on"]
        self.server = subprocess.Popen([str(self.bin / "postgres"), *arguments], **self.as_user(),
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        subprocess.run([str(self.bin / "pg_isready"), "-h", "127.0.0.1", "-p", str(self.port), "-t", "30"],
                       check=False, stdout=subprocess.DEVNULL)
        for _ in range(100):
            if self.client("psql", "-c", "select 1", "postgres", check=False).returncode == 0:
                break
        self.client("psql", "-v", "ON_ERROR_STOP=1", "-c", SCHEMA, "postgres")
        self.script = pathlib.Path(self.dir, "payment.sql")
        self.script.write_text(PAYMENT)
        self.script.chmod(0o644)

    def as_user(self):
        return {"user": self.user, "cwd": self.dir} if os.geteuid() == 0 else {"cwd": self.dir}

    def run(self, tool, *arguments, check=True):
        return subprocess.run([str(self.bin / tool), *arguments], check=check, text=True, capture_output=True,
                              **self.as_user())

    def client(self, tool, *arguments, check=True):
        return self.run(tool, "-h", "127.0.0.1", "-p", str(self.port), "-U", self.user, *arguments, check=check)

    def transfers_per_s(self, clients, seconds):
        told = self.client("pgbench", "-n", "-M", "prepared", "-c", str(clients), "-j", "2", "-T", str(seconds),
                           "-f", str(self.script), "postgres").stdout
        failed = re.search(r"number of failed transactions: (\d+)", told)
        assert failed is None or failed[1] == "0", told
        return float(re.search(r"tps = ([0-9.]+)", told)[1])

    def money(self):
        return int(self.client("psql", "-tAc", "select sum(balance) from account", "postgres").stdout)

    def stop(self):
        self.server.terminate()
        try:
            self.server.wait(20)
        except subprocess.TimeoutExpired:
            self.server.kill()
            self.server.wait()
        shutil.rmtree(self.dir, ignore_errors=True)


def one_round(postgres, options):
    settings = ["--transfers", str(options.transfers)]
    told = subprocess.run([options.engine, "--json", "bench", "ledger", *settings], check=True, text=True,
                          capture_output=True).stdout
    engine = json.loads(told.strip().splitlines()[-1])
    line = {"engine": engine, "postgres": {}}
    for clients in (1, 100):
        per_s = postgres.transfers_per_s(clients, options.seconds)
        line["postgres"][f"clients_{clients}"] = round(per_s, 1)
        line[f"ratio_{clients}"] = round(engine[f"clients_{clients}"]["settled_per_s"] / per_s, 2)
    line["ratio_batches_to_100"] = round(engine["batches"]["settled_per_s"] / line["postgres"]["clients_100"], 2)
    return line


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine", default="target/release/p2engine")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=8, help="of PostgreSQL, each number of clients")
    parser.add_argument("--transfers", type=int, default=10_000)
    options = parser.parse_args()
    postgres = Postgres()
    try:
        lines = []
        for _ in range(options.rounds):
            lines.append(one_round(postgres, options))
            print(json.dumps(lines[-1]), flush=True)
        assert postgres.money() == ACCOUNTS * 1_000_000_000, "PostgreSQL lost money"
        keys = ("ratio_1", "ratio_100", "ratio_batches_to_100")
        medians = {key: statistics.median(line[key] for line in lines) for key in keys}
        for kind in ("batches", "clients_100", "clients_1"):
            ratios = [line["engine"][kind]["ratio"] for line in lines]
            medians[f"{kind}_to_bare_append"] = statistics.median(ratios)
        print(json.dumps({"medians": medians}))
    finally:
        postgres.stop()


if __name__ == "__main__":
    main()
