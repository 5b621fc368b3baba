// The same, on a Redis Cluster.
process.env['TEST_REDIS'] = 'cluster'
await import('../e2e/clients-keys.test.ts')
