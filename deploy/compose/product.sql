-- The database of a small product, and what its customers do in a second.
create table account (
    id                 bigint generated always as identity primary key,
    name               text not null,
    stripe_customer_id text
);
create table api_request (
    id         bigint generated always as identity primary key,
    account_id bigint not null references account,
    created_at timestamptz not null default now()
);
create index on api_request (created_at);
create table stored_object (
    id         bigint generated always as identity primary key,
    account_id bigint not null references account,
    bytes      bigint not null,
    stored_at  timestamptz not null default now()
);
create index on stored_object (stored_at);

insert into account (name, stripe_customer_id)
select 'Customer ' || number, 'cus_' || lpad(number::text, 4, '0') from generate_series(1, 20) as number;
insert into account (name) values ('Not a customer yet');

create function one_second() returns void language sql as $$
    insert into api_request (account_id)
    select id from account cross join generate_series(1, 5) where random() < 0.3;
    insert into stored_object (account_id, bytes)
    select id, (random() * 50000000)::bigint from account where random() < 0.05;
$$;

create role reader login password 'reader';
grant select on account, api_request, stored_object to reader;
