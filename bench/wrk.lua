-- After wrk's own summary: the same as one line of JSON, which is what bench/wrk.py reads.
done = function(summary, latency, _)
   local failed = summary.errors
   io.write(string.format(
      '{"requests": %d, "seconds": %f, "p50_us": %d, "p99_us": %d, "p999_us": %d, '
         .. '"max_us": %d, "not_200": %d, "failed": %d}\n',
      summary.requests, summary.duration / 1e6, latency:percentile(50), latency:percentile(99),
      latency:percentile(99.9), latency.max, failed.status,
      failed.connect + failed.read + failed.write + failed.timeout))
end
