-- Storage of each customer per day, in GiB-hours: hourly samples of bytes, each standing for its hour.
select stripe_customer_id               as customer,
       sum(stored_bytes) / (1024.0 ^ 3) as quantity,
       max(sampled_at)                  as at,
       date_trunc('day', sampled_at at time zone 'UTC') at time zone 'UTC' as window
  from storage_sample
 where sampled_at >= :start
   and sampled_at < :end
 group by stripe_customer_id, date_trunc('day', sampled_at at time zone 'UTC');
