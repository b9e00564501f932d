"""The tables of `labels.db`; what they hold is in `labels`. Each label costs the same, however many its row has."""

SCHEMA = """
create table if not exists labels (
    number integer primary key autoincrement, prediction text not null, row integer, client_id text,
    name text not null, value text not null, time real not null, source text not null, received real not null,
    model text not null, version text, correct integer, loss real, rows integer not null,
    superseded integer not null default 0);
create index if not exists labels_said on labels (prediction, row, name, source);
create index if not exists labels_timed on labels (prediction, row, name, source, time);
create index if not exists labels_holding on labels (prediction, row, name) where superseded = 0;
create index if not exists labels_correct on labels (model, version, number) where correct is not null;
create index if not exists labels_loss on labels (model, version, number) where loss is not null;
create table if not exists waiting (
    number integer primary key, prediction text, row integer, client_id text, client blob,
    name text not null, value text not null, time real, source text not null, received real not null,
    why text not null);
create index if not exists waiting_prediction on waiting (prediction, row, name, source);
create index if not exists waiting_client on waiting (client, row, name, source);
create index if not exists waiting_prediction_timed on waiting (prediction, row, name, source, time);
create index if not exists waiting_client_timed on waiting (client, row, name, source, time);
create table if not exists clients (client blob, prediction text, primary key (client, prediction)) without rowid;
create table if not exists totals (model text, version text, labels integer, primary key (model, version));
create table if not exists places (name text primary key, body blob);
"""
SAID = "number, prediction, row, client_id, name, value, time, source, received, model, version, correct, loss, rows"
TEXT = """case when substr(value, 1, 1) = '"' then value ->> '$' else value end"""
"""A value as text: it is kept as JSON."""
