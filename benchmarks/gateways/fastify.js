// Fastify with @fastify/http-proxy, as its README shows it. BENCH_REDIS set: with its plugins for what the five plugins do.
'use strict'

const redis = process.env.BENCH_REDIS
const origin = process.env.BENCH_ORIGIN

async function main () {
  const app = require('fastify')({
    keepAliveTimeout: 600000,
    logger: redis ? { level: 'info', file: 'access.log' } : false
  })
  const options = { upstream: process.env.BENCH_UPSTREAM, prefix: '/api', rewritePrefix: '/api' }
  if (redis) {
    const Redis = require('ioredis')
    await app.register(require('@fastify/cors'), { origin: [origin] })
    await app.register(require('@fastify/jwt'), { secret: process.env.BENCH_SECRET })
    app.addHook('onRequest', async (request, reply) => {
      if (request.method !== 'OPTIONS') await request.jwtVerify()
    })
    await app.register(require('@fastify/rate-limit'), {
      redis: new Redis({ host: '127.0.0.1', port: Number(redis), connectTimeout: 500, maxRetriesPerRequest: 1 }),
      max: 1000000000,
      timeWindow: 3600000,
      keyGenerator: request => request.user.sub
    })
    options.replyOptions = {
      rewriteRequestHeaders: (request, headers) => {
        const { cookie, ...kept } = headers
        return { ...kept, 'x-gateway': 'fastify' }
      }
    }
  }
  await app.register(require('@fastify/http-proxy'), options)
  await app.listen({ port: Number(process.env.PORT), host: '127.0.0.1' })
}

main().catch(error => { console.error(error); process.exit(1) })
