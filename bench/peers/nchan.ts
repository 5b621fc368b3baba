import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { findFreePort, spawnProcess } from '../../test/helper.ts'
import { runLoad } from '../figure.ts'
import { CLIENTS, crowds } from '../figures/fan-out.ts'
import { spread } from '../report.ts'
import { endOnSignal, withScope, type Scope } from '../scope.ts'

/*
 * The crowd's figures for nchan, nginx's module for pub/sub over SSE: `npm run bench:nchan`, after
 * `apt-get install nginx libnginx-mod-nchan` on Debian. The same clients hear the same events; they are published by POST,
 * for nchan knows channels and no jobs. One process, as the gateway is one.
 */
const NGINX = process.env['NGINX'] ?? 'nginx'
const MODULE = process.env['NCHAN'] ?? '/usr/lib/nginx/modules/ngx_nchan_module.so'
const ROUNDS = 4

endOnSignal()
for (const { name, what, job } of crowds) {
  const costs: number[] = []
  for (let round = 0; round < ROUNDS; round++)
    costs.push(await withScope((t) => measure(t, job({ isQuick: false }))))
  const { median, min, max } = spread(costs)
  console.log(
    `${name}, ${what}: ${median.toFixed(2)} µs (${min.toFixed(2)}–${max.toFixed(2)}) of CPU per delivery`,
  )
}

async function measure(t: Scope, rounds: ReturnType<(typeof crowds)[number]['job']>): Promise<number> {
  const port = await findFreePort()
  const dir = await mkdtemp(join(tmpdir(), 'quartet-nchan-'))
  t.teardown(() => rm(dir, { recursive: true }))
  await writeFile(join(dir, 'nginx.conf'), configOf(port, dir))
  const nginx = spawnProcess(t, [NGINX, '-p', dir, '-e', 'stderr', '-c', join(dir, 'nginx.conf')])
  await nginx.waitForLine(/start worker process|using the "epoll" event method/, 10_000)
  const { cpu, count } = await runLoad(t, 'fanOut', {
    urls: [`http://127.0.0.1:${port}`],
    watched: { gateway: [nginx.pid], redis: [], worker: [] },
    speaker: 'publisher',
    redisUrl: '',
    clients: CLIENTS,
    rounds,
  })
  return cpu.gateway / count
}

function configOf(port: number, dir: string): string {
  return `
load_module ${MODULE};
daemon off;
master_process off;
pid ${dir}/nginx.pid;
error_log stderr notice;
worker_rlimit_nofile 8192;
events { worker_connections 4096; }
http {
  access_log off;
  tcp_nodelay on;
  client_body_temp_path ${dir}/body;
  proxy_temp_path ${dir}/proxy;
  fastcgi_temp_path ${dir}/fastcgi;
  uwsgi_temp_path ${dir}/uwsgi;
  scgi_temp_path ${dir}/scgi;
  server {
    listen 127.0.0.1:${port} backlog=4096;
    keepalive_requests 100000;
    location /sub/ {
      nchan_subscriber eventsource;
      nchan_channel_id crowd;
      nchan_subscriber_first_message newest;
    }
    location /pub/ {
      nchan_publisher http;
      nchan_channel_id crowd;
      nchan_message_buffer_length 2000;
      nchan_message_timeout 60s;
    }
  }
}
`
}
