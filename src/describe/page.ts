import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import type { FastifyInstance } from 'fastify'
import { open } from '../access/authenticate.ts'
import { Problem } from '../errors.ts'

/** What the page may load, run and ask: this host alone. Swagger UI sets styles of its own. */
const policy = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self' 'unsafe-inline'",
  "img-src 'self' data:",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ')

/** Addresses are relative, so that the page is also found behind a prefix. */
const html = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Quartet</title>
<link rel="icon" type="image/png" href="docs/favicon-32x32.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="reference"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
`

/** Whoever enters a key that is one is shown the document that is for it. */
const start = `const ui = SwaggerUIBundle({
  url: 'openapi.json',
  dom_id: '#reference',
  validatorUrl: null,
  defaultModelsExpandDepth: 0,
  plugins: [{
    statePlugins: {
      auth: {
        wrapActions: {
          authorize: (authorize) => async (given) => {
            authorize(given)
            if (!given.key) return
            const headers = { authorization: 'Bearer ' + given.key.value }
            const answer = await fetch('openapi.json', { headers })
            if (answer.ok) ui.specActions.updateSpec(await answer.text())
          },
        },
      },
    },
  }],
})
`

/** Those of Swagger UI, and how it is started, by their media types. */
const files: Readonly<Record<string, string>> = {
  'start.js': 'text/javascript; charset=utf-8',
  'swagger-ui.css': 'text/css; charset=utf-8',
  'swagger-ui-bundle.js': 'text/javascript; charset=utf-8',
  'favicon-32x32.png': 'image/png',
}
const CACHE = 'public, max-age=3600'

/** GET /docs: a page that shows openapi.json, made of what this host has. */
export function registerPage(app: FastifyInstance): void {
  app.get('/docs', open, async (_request, reply) =>
    reply
      .header('content-security-policy', policy)
      .header('cache-control', CACHE)
      .type('text/html; charset=utf-8')
      .send(html),
  )

  const kept = new Map<string, Buffer>([['start.js', Buffer.from(start)]])
  app.get<{ Params: { file: string } }>('/docs/:file', open, async (request, reply) => {
    const { file } = request.params
    const type = Object.hasOwn(files, file) ? files[file] : undefined
    if (type === undefined) throw new Problem('no_such_route', `GET /docs/${file}`)
    reply.header('cache-control', CACHE).type(type)
    const content = kept.get(file) ?? (await readAsset(file))
    kept.set(file, content)
    return reply.send(content)
  })
}

function readAsset(file: string): Promise<Buffer> {
  return readFile(fileURLToPath(import.meta.resolve(`@fastify/swagger-ui/static/${file}`)))
}
