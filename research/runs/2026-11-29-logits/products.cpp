// Products of a few rows x [m, in] with an output matrix W [out, in] in float32, on one thread:
// x W^T (linear), its gradient (back), and W x^T; the fastest of three.
// g++ -O1 -std=c++20 products.cpp -I$LIBTORCH/include -I$LIBTORCH/include/torch/csrc/api/include \
//     -L$LIBTORCH/lib -ltorch -ltorch_cpu -lc10 -Wl,-rpath,$LIBTORCH/lib
#include <torch/torch.h>
#include <time.h>
#include <cstdio>
using at::Tensor;
static double cpu(){timespec t;clock_gettime(CLOCK_THREAD_CPUTIME_ID,&t);return t.tv_sec+1e-9*t.tv_nsec;}
int main(){
  at::set_num_threads(1); at::NoGradGuard g;
  long shapes[][2]={{49152,576},{151936,896}};
  for(auto&s:shapes){ Tensor w=torch::randn({s[0],s[1]});
   for(long m:{1,4,8,12,16,20,23,24,28,32,44,64,96}){
    Tensor x=torch::randn({m,s[1]}),gy=torch::randn({m,s[0]});
    double b[4]={1e9,1e9,1e9,1e9};
    for(int r=0;r<3;r++){double t=cpu();at::linear(x,w);b[0]=std::min(b[0],cpu()-t);
      t=cpu();at::matmul(gy,w);b[1]=std::min(b[1],cpu()-t);
      t=cpu();at::matmul(w,x.t());b[2]=std::min(b[2],cpu()-t);
    }
    double f=2.0*m*s[0]*s[1]/1e9;
    printf("[%ld,%ld] m %ld linear %.1f ms (%.0f GF)  back %.1f ms (%.0f GF) W@xT %.1f ms\n",s[0],s[1],m,b[0]*1e3,f/b[0],b[1]*1e3,f/b[1],b[2]*1e3); fflush(stdout);
  }}
}
