package postgres
import ("testing";"time";"mailxmppd/store";"fmt";"os";"path/filepath")
func TestZZ(t *testing.T){
 ctx:=t.Context()
 n:=newSchema(); s:=node(t,n,"x")
 life:=func(what string){
  for r:=range 3 { a:=time.Now()
   for range 20 { m:=newMessage(t,10000,"a@fresh.example"); 
    if r==2 { m.Lease=store.Own{Domains:[]string{"fresh.example"},For:time.Hour} }
    l,err:=s.PutMessage(ctx,m); if err!=nil{t.Fatal(err)}
    if r<2 { l,err=s.Claim(ctx,5,time.Hour,[]string{"busy.example"}); if err!=nil||len(l)!=1{t.Fatal(len(l),err)}; l[0],err=s.BeginAttempt(ctx,l[0]); if err!=nil{t.Fatal(err)} }
    s.NextDue(ctx)
    if err:=s.Settle(ctx,results(l[0],store.Result{State:store.Delivered}));err!=nil{t.Fatal(err)} }
   t.Log(what, r, time.Since(a)/20) }
 }
 exec(t,n,`ALTER ROLE postgres SET session_preload_libraries='auto_explain'`)
 exec(t,n,`ALTER ROLE postgres SET auto_explain.log_min_duration=20`)
 exec(t,n,`ALTER ROLE postgres SET auto_explain.log_analyze=on`)
 s.Close(); s=node(t,n,"x")
 life("empty")
 a:=time.Now()
 exec(t,n,`INSERT INTO messages SELECT lpad(i::text,26,'0'),'t','{"sender":"a@b.c"}','{}','{}','',10,'',NULL,NULL,1,now(),NULL FROM generate_series(1,1000000) i`)
 exec(t,n,`INSERT INTO deliveries SELECT lpad(i::text,26,'0'),0,'x@d.example','d'||(i%1000)||'.example','deferred',now()+interval '1 hour'+i*interval '1 ms',now()+interval '5 days','',1,1,0,false,false,'no',now(),now(),'{}' FROM generate_series(1,1000000) i`)
 t.Log("filled", time.Since(a))
 life("million deferred")
 fmt.Println("LOG", server.PID)
 b,_:=os.ReadFile(filepath.Join(filepath.Dir(func() string { l,_:=os.Readlink(fmt.Sprintf("/proc/%d/cwd",server.PID)); return l }()),"log")); os.WriteFile("/tmp/h6/pglog",b,0o644)
}
